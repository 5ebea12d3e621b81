"""Measuring what detectors find against the truth, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from vsad.data import MultiViewDataset
from vsad.detection import Detector, place
from vsad.files import first_of
from vsad.pipeline.detections import Detections
from vsad.pipeline.names import BASELINE
from vsad.pipeline.opening import in_utf8
from vsad.pipeline.parts import detect_baseline
from vsad.pipeline.tally import Tally
from vsad.progress import SILENT, Progress


class Variant(NamedTuple):
    """A detector, and whether views agree in it; None leaves that to its configuration."""

    detector: Detector
    agree: bool | None = None


def measure(found: Detections, dataset: MultiViewDataset, progress: Progress = SILENT) -> Tally:
    """Measure stored detections against the truth of the data set that was inspected.

    Samples that could not be inspected are left out.

    Raises:
        ValueError: the detections are not of this data set.
    """
    names = [in_utf8(sample.id) for sample in dataset.samples]
    missing = [name for name in names if name not in found.rows and name not in found.bad]
    if missing:
        raise ValueError(
            f"{found.folder}: must hold detections of every test sample, got none of {first_of(missing)}; run "
            "`vsad detect` on this data set"
        )
    other = next((sample for sample in dataset.samples if not found.is_of(sample)), None)
    if other is not None:
        raise ValueError(
            f"{found.folder}: must hold detections of these images, but {other.id} was inspected with other files; "
            "name the data set that was inspected, or run `vsad detect` on this one"
        )
    known = [index for index, sample in enumerate(dataset.samples) if sample.id in found.rows]
    if not known:
        raise ValueError(f"{found.folder}: must hold a sample that could be inspected, got none; restore the images")
    tally = Tally(found.header.cameras.views, found.header.threshold)
    for truth in progress.track(dataset.subset(known).iter_truth(), "evaluate", len(known)):
        tally.add(truth, found.detection(truth["id"]))
    return tally


@torch.no_grad()
def measure_variants(
    variants: Mapping[str, Variant], dataset: MultiViewDataset, progress: Progress = SILENT
) -> dict[str, Tally]:
    """Measure several detectors on a data set; each looks once at each sample."""
    tallies = {name: Tally(dataset.views, variant.detector.threshold) for name, variant in variants.items()}
    detectors = list(dict.fromkeys(variant.detector for variant in variants.values()))
    for item in progress.track(dataset, "compare"):
        for detector in detectors:
            placed, placement = place(item["images"].to(detector.reach), detector.registration, detector.model.divisor)
            maps = () if detector.network is None else detector.network(placed)
            deviations = detector.deviations(detector.model.encode(placed[None])[0], *maps)
            for name, variant in variants.items():
                if variant.detector is detector:
                    tallies[name].add(item, detector.decide(deviations, placement, variant.agree).cpu())
    return tallies


def measure_baseline(
    normal: MultiViewDataset, test: MultiViewDataset, seed: int, progress: Progress = SILENT
) -> dict[str, Tally]:
    """Measure a plain bank of Gaussian derivatives of every view by itself, which has no threshold."""
    tally = Tally(test.views, float("nan"))
    for truth, found in zip(test.iter_truth(), detect_baseline(normal, test, seed, progress)):
        tally.add(truth, found)
    return {BASELINE: tally}
