"""The main job from end to end: its steps, a run of all of them, and stored detections."""

from vsad.pipeline.detections import Detections, Truth
from vsad.pipeline.run import METRICS, REPORT, Outcome, RunConfig, run
from vsad.pipeline.steps import (
    REGISTRATION,
    canonical_images,
    detect_all,
    images_of,
    metrics_table,
    normal_samples,
    register_station,
    report_detections,
    write_metrics,
)

__all__ = [
    "METRICS",
    "REGISTRATION",
    "REPORT",
    "Detections",
    "Outcome",
    "RunConfig",
    "Truth",
    "canonical_images",
    "detect_all",
    "images_of",
    "metrics_table",
    "normal_samples",
    "register_station",
    "report_detections",
    "run",
    "write_metrics",
]
