"""The main job from end to end: its steps, a run of all of them, stored detections, and an ablation."""

from vsad.pipeline.ablation import TABLES, ablate
from vsad.pipeline.ablation_rows import ROWS
from vsad.pipeline.ablation_table import ablation_tables
from vsad.pipeline.config import RunConfig, choose_device, run_config
from vsad.pipeline.detections import Detections, Truth
from vsad.pipeline.parts import Split, fit_detector
from vsad.pipeline.reporting import report_detections
from vsad.pipeline.run import DETECTOR, METRICS, REPORT, Outcome, run
from vsad.pipeline.steps import (
    REGISTRATION,
    Images,
    canonical_images,
    detect_all,
    images_of,
    metrics_table,
    normal_samples,
    register_station,
    write_metrics,
)

__all__ = [
    "DETECTOR",
    "METRICS",
    "REGISTRATION",
    "REPORT",
    "ROWS",
    "TABLES",
    "Detections",
    "Images",
    "Outcome",
    "RunConfig",
    "Split",
    "Truth",
    "ablate",
    "ablation_tables",
    "canonical_images",
    "choose_device",
    "detect_all",
    "fit_detector",
    "images_of",
    "metrics_table",
    "normal_samples",
    "register_station",
    "report_detections",
    "run",
    "run_config",
    "write_metrics",
]
