"""The report of an inspected data set."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import vsad
from vsad.data import GOOD
from vsad.geometry import Rig
from vsad.metrics import Result
from vsad.pipeline.detections import Detections
from vsad.report import Reconstruction, Report, ReportSample, write_report


def report_detections(
    path: Path,
    detections: Detections,
    rows: Sequence[tuple[str, Result]],
    rig: Rig,
    facts: dict[str, str],
    reconstructions: Sequence[Reconstruction] = (),
) -> None:
    """Write the HTML report; ``rows`` are named metrics, this run's first."""
    samples = []
    for sample, item, found in zip(detections.dataset.samples, detections.dataset, detections.found):
        samples.append(
            ReportSample(
                id=sample.id, images=(item["images"] * 255).round().to(torch.uint8), maps=found.maps,
                view_scores=found.view_scores, sample_score=float(found.sample_score), masks=item["masks"],
                view_labels=item["view_labels"], label=bool(item["sample_label"]),
                defect=None if sample.defect == GOOD else sample.defect, category=sample.category,
                unjudged=found.unjudged,
            )
        )  # fmt: skip
    machine = {"machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"}
    title = f"Inspection of {detections.dataset.category}"
    write_report(
        path,
        Report(
            title, detections.dataset.views, samples, detections.threshold, metrics=list(rows), calibration=rig.pairs,
            reconstructions=reconstructions,
            facts={**facts, **machine, "vsad": vsad.__version__, "date": time.strftime("%Y-%m-%d %H:%M")},
        ),
    )  # fmt: skip
