"""The report of an inspected data set."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vsad
from vsad.data import GOOD, MultiViewDataset
from vsad.detection import Detector, place
from vsad.geometry import Rig
from vsad.metrics import Curves, Intervals, Result
from vsad.pipeline.detections import Detections
from vsad.pipeline.opening import in_utf8
from vsad.pipeline.tally import Tally
from vsad.report import CurvePoints, Reconstruction, Report, ReportSample, lay_over, write_report

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
    threads = torch.get_num_threads()
    machine = {
        "machine": f"{platform.system()} {platform.machine()}, {threads} {'thread' if threads == 1 else 'threads'}"
    }
    views, curves = detections.header.cameras.views, tally.evaluation.curves()
    write_report(
        path,
        Report(
            f"Inspection of {detections.header.category}", views, _samples(detections, dataset),
            detections.header.threshold,
            metrics=[(rows[0][0], _with_intervals(rows[0][1], tally.evaluation.intervals())), *rows[1:]],
            roc=[CurvePoints(name, found.x, found.y) for name, found in _levels(curves) if found is not None],
            pro=[CurvePoints("pixel", curves.pro.x, curves.pro.y)] if curves.pro is not None else [],
            calibration=rig.pairs, size=rig.size,
            calibration_pictures=lay_over(_any_images(dataset), views, rig.pairs),
            skipped=[*{**_left_out(detections, dataset), **(skipped or {})}.items()],
            empty_masks=tally.empty_masks, reconstructions=drawn,
            facts={**facts, **machine, "vsad": vsad.__version__, "date": time.strftime("%Y-%m-%d %H:%M")},
        ),
    )  # fmt: skip


def _levels(curves: Curves) -> list[tuple[str, Any]]:
    return [("pixel", curves.pixel), ("view", curves.view), ("sample", curves.sample)]


def _with_intervals(result: Result, intervals: Intervals) -> dict[str, dict[str, Any]]:
    """The metrics of every level, each beside its interval."""
    return {
        level: {**values, **{f"{name}_interval": ends for name, ends in intervals.get(level, {}).items()}}
        for level, values in result.items()
    }


def _any_images(dataset: MultiViewDataset) -> Tensor:
    """The images of the first sample that can be read, a good one where there is any."""
    order = sorted(range(len(dataset)), key=lambda index: dataset.samples[index].defect != GOOD)
    return next(images for _, images in dataset.subset(order).iter_images(on_bad=lambda bad: None))


def _left_out(detections: Detections, dataset: MultiViewDataset) -> dict[str, str]:
    """The samples of a data set that cannot be shown: they were not inspected, or their scores are no numbers."""
    names = [in_utf8(sample.id) for sample in dataset.samples]  # the folder may hold samples of others
    every = {**detections.bad, **_numberless(detections)}
    return {name: every[name] for name in names if name in every}


def _numberless(detections: Detections) -> dict[str, str]:
    """The samples that no picture or curve can show, since their scores are no numbers."""
    why = "its score is no number, so it is called DEFECT; inspect it anew"
    return {verdict.id: why for verdict in detections.verdicts.found if not math.isfinite(verdict.score)}


def _samples(detections: Detections, dataset: MultiViewDataset) -> Iterator[ReportSample]:
    shown = detections.rows.keys() - _numberless(detections).keys()
    known = [index for index, sample in enumerate(dataset.samples) if sample.id in shown]
    for item in dataset.subset(known):
        found = detections.detection(item["id"])
        yield ReportSample(
            id=item["id"], images=(item["images"] * 255).round().to(torch.uint8), maps=found.maps,
            view_scores=found.view_scores, sample_score=float(found.sample_score), masks=item["masks"],
            view_labels=item["view_labels"], label=bool(item["sample_label"]),
            defect=None if item["defect"] in (GOOD, "") else item["defect"], category=item["category"],
            unjudged=found.unjudged, blind=found.blind, not_registered=found.reason,
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
