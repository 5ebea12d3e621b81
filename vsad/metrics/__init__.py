"""Exact anomaly metrics at pixel, view and sample level, their intervals, their curves, and thresholds."""

from vsad.metrics.arrays import Array, as_numpy
from vsad.metrics.bootstrap import Interval, bootstrap
from vsad.metrics.evaluation import Curves, Evaluation, evaluate
from vsad.metrics.paired import paired_interval, t_quantile
from vsad.metrics.pixels import PixelScores
from vsad.metrics.points import CurvePoints
from vsad.metrics.single import aupro, auroc, average_precision, f1_max
from vsad.metrics.summary import LEVELS, Intervals, Metrics, Result, summarize
from vsad.metrics.threshold import Confusion, confusion, f1_max_threshold

__all__ = [
    "LEVELS",
    "Array",
    "Confusion",
    "CurvePoints",
    "Curves",
    "Evaluation",
    "Interval",
    "Intervals",
    "Metrics",
    "PixelScores",
    "Result",
    "as_numpy",
    "aupro",
    "auroc",
    "average_precision",
    "bootstrap",
    "confusion",
    "evaluate",
    "f1_max",
    "f1_max_threshold",
    "paired_interval",
    "summarize",
    "t_quantile",
]
