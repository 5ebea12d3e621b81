"""Evaluation: exact anomaly metrics at pixel, view and sample level."""

from vsad.metrics.arrays import Array, as_numpy
from vsad.metrics.evaluation import LEVELS, Result, evaluate, summarize
from vsad.metrics.intervals import paired_interval, t_quantile
from vsad.metrics.single import aupro, auroc, average_precision, f1_max

__all__ = [
    "LEVELS",
    "Array",
    "Result",
    "as_numpy",
    "aupro",
    "auroc",
    "average_precision",
    "evaluate",
    "f1_max",
    "paired_interval",
    "summarize",
    "t_quantile",
]
