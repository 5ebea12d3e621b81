"""The report of an inspected data set."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

import vsad
from vsad.data import GOOD, MultiViewDataset
from vsad.detection import Detector, place
from vsad.geometry import Rig
from vsad.metrics import Result
from vsad.pipeline.detections import Detections
from vsad.pipeline.tally import Tally
from vsad.report import Reconstruction, Report, ReportSample, write_report

# Samples whose reconstructions a report shows, at most.
_DRAWN = 6


def report_detections(
    path: Path,
    detections: Detections,
    dataset: MultiViewDataset,
    tally: Tally,
    rows: Sequence[tuple[str, Result]],
    rig: Rig,
    facts: Mapping[str, str],
    drawn: Sequence[Reconstruction] = (),
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write the HTML report.

    Args:
        path: of the page.
        detections: what was found.
        dataset: that was inspected.
        tally: what the detections achieved.
        rows: named metrics, this run's first.
        rig: of the cameras.
        facts: what, where and how.
        drawn: what the model makes of some samples.
        skipped: samples that were left out, and why.
    """
    machine = {"machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"}
    title = f"Inspection of {detections.header.category}"
    write_report(
        path,
        Report(
            title, detections.header.cameras.views, [*_samples(detections, dataset)], detections.header.threshold,
            metrics=list(rows), calibration=rig.pairs, reconstructions=drawn,
            facts={**facts, **machine, "vsad": vsad.__version__, "date": time.strftime("%Y-%m-%d %H:%M")},
        ),
    )  # fmt: skip


def _samples(detections: Detections, dataset: MultiViewDataset) -> Iterator[ReportSample]:
    known = [index for index, sample in enumerate(dataset.samples) if sample.id in detections.rows]
    for item in dataset.subset(known):
        found = detections.detection(item["id"])
        yield ReportSample(
            id=item["id"], images=(item["images"] * 255).round().to(torch.uint8), maps=found.maps,
            view_scores=found.view_scores, sample_score=float(found.sample_score), masks=item["masks"],
            view_labels=item["view_labels"], label=bool(item["sample_label"]),
            defect=None if item["defect"] in (GOOD, "") else item["defect"], category=item["category"],
            unjudged=found.unjudged,
        )  # fmt: skip


@torch.no_grad()
def reconstructions(detector: Detector, test: MultiViewDataset) -> list[Reconstruction]:
    """What the model makes of the first good sample and the first of every kind of defect."""
    kinds: dict[str, int] = {}
    for index, sample in enumerate(test.samples):
        kinds.setdefault(sample.defect or GOOD, index)
    found = []
    for _, index in sorted(kinds.items(), key=lambda kind: kind[0] != GOOD)[:_DRAWN]:
        images = test.read_images(index).to(detector.reach)
        placed = place(images, detector.registration, detector.model.divisor)[0]
        latents = detector.model.encode(placed[None])
        drawn = detector.model.reconstruct(latents, detector.canonical_rig, detector.category)[0]
        found.append(
            Reconstruction(f"{test.samples[index].defect}/{test.samples[index].id}", placed.cpu(), drawn.cpu())
        )
    return found
