"""The main job from end to end: its steps, a run of all of them, stored detections, and an ablation."""

from typing import TYPE_CHECKING

from vsad.lazy import names_in
from vsad.pipeline.config import REGISTRATION, RunConfig, choose_device, run_config
from vsad.pipeline.detections_file import read_detections
from vsad.pipeline.names import DETECTOR, METRICS, REPORT

if TYPE_CHECKING:
    from vsad.pipeline.ablation import TABLES, ablate
    from vsad.pipeline.ablation_changes import ROWS, check_ablation
    from vsad.pipeline.ablation_table import ablation_tables
    from vsad.pipeline.categories import choose_categories
    from vsad.pipeline.detections import Detections, Header
    from vsad.pipeline.inspection import detector_options, inspect
    from vsad.pipeline.learned import cameras_for, read_cameras
    from vsad.pipeline.learning import fit_station, train_station
    from vsad.pipeline.measuring import measure
    from vsad.pipeline.opening import Reading, in_utf8, rig_warnings, size_warnings
    from vsad.pipeline.parts import Split, fit_detector
    from vsad.pipeline.record import SampleRecord
    from vsad.pipeline.reporting import report_detections
    from vsad.pipeline.rethreshold import decide_anew, threshold_at, threshold_for_rate, threshold_of_best_f1
    from vsad.pipeline.steps import Images, images_of, metrics_table, register_station, write_metrics
    from vsad.pipeline.tally import count_verdicts
    from vsad.pipeline.undistortion import Undistorted, undistort_folder
    from vsad.pipeline.verdicts import Verdicts
    from vsad.pipeline.watching import Log, Watcher
    from vsad.pipeline.whole import Outcome, run

__all__ = [
    "DETECTOR",
    "METRICS",
    "REGISTRATION",
    "REPORT",
    "ROWS",
    "TABLES",
    "Detections",
    "Header",
    "Images",
    "Log",
    "Outcome",
    "Reading",
    "RunConfig",
    "SampleRecord",
    "Split",
    "Undistorted",
    "Verdicts",
    "Watcher",
    "ablate",
    "ablation_tables",
    "cameras_for",
    "check_ablation",
    "choose_categories",
    "choose_device",
    "count_verdicts",
    "decide_anew",
    "detector_options",
    "fit_detector",
    "fit_station",
    "images_of",
    "in_utf8",
    "inspect",
    "measure",
    "metrics_table",
    "read_cameras",
    "read_detections",
    "register_station",
    "report_detections",
    "rig_warnings",
    "run",
    "run_config",
    "size_warnings",
    "threshold_at",
    "threshold_for_rate",
    "threshold_of_best_f1",
    "train_station",
    "undistort_folder",
    "write_metrics",
]

__getattr__ = names_in(
    __name__,
    __all__,
    "categories ablation_changes verdicts record tally opening detections inspection learned learning "
    "measuring parts reporting rethreshold steps undistortion watching whole ablation_table ablation",
)
