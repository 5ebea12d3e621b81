"""Results of categories, and their means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from vsad.metrics.bootstrap import Interval

Metrics: TypeAlias = dict[str, float | None]
Result: TypeAlias = dict[str, Metrics]
Intervals: TypeAlias = dict[str, dict[str, Interval | None]]
LEVELS: dict[str, tuple[str, ...]] = {
    "pixel": ("auroc", "ap", "f1_max", "aupro"),
    "view": ("auroc", "ap", "f1_max"),
    "sample": ("auroc", "ap", "f1_max"),
}


def summarize(results: Mapping[str, Result], intervals: Mapping[str, Intervals] | None = None) -> dict[str, object]:
    """Results per category and their mean.

    Each mean is over the categories where the metric is defined, and None where no category defines it.

    Args:
        results: category name -> what ``evaluate`` returned.
        intervals: category name -> what ``Evaluation.intervals`` returned.

    Returns:
        {"categories": {name: result}, "mean": result}, ready for ``json.dump``; with intervals, also
        {"intervals": {name: {"view": {"auroc": (low, high), "ap", "f1_max"}, "sample": as view}}}.

    Raises:
        ValueError: no category was given, or intervals of one without results.
    """
    if not results:
        raise ValueError("summarize: results must hold at least one category, got none; evaluate one first")
    unknown = sorted(set(intervals or ()) - set(results))
    if unknown:
        raise ValueError(
            f"summarize: intervals must be of the results' categories {sorted(results)}, got {unknown}; "
            f"give the results of the same categories"
        )
    mean: Result = {}
    for level, names in LEVELS.items():
        mean[level] = {}
        for name in names:
            defined = [value for r in results.values() if (value := r[level][name]) is not None]
            mean[level][name] = float(np.mean(defined)) if defined else None
    summary: dict[str, object] = {"categories": dict(results), "mean": mean}
    return summary if intervals is None else {**summary, "intervals": dict(intervals)}
