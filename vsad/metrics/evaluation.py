"""All metrics of a category at pixel, view and sample level, and their means over categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from vsad.metrics.arrays import Array, checked_scores
from vsad.metrics.curve import Curve, region_weights

Metrics: TypeAlias = dict[str, float | None]
Result: TypeAlias = dict[str, Metrics]
LEVELS: dict[str, tuple[str, ...]] = {
    "pixel": ("auroc", "ap", "f1_max", "aupro"),
    "view": ("auroc", "ap", "f1_max"),
    "sample": ("auroc", "ap", "f1_max"),
}


def evaluate(
    maps: Array,
    masks: Array | None,
    view_scores: Array,
    view_labels: Array,
    sample_scores: Array,
    sample_labels: Array,
) -> Result:
    """All metrics of one category, at the three levels.

    Args:
        maps: (M, V, H, W) anomaly scores of M samples seen in V views.
        masks: (M, V, H, W) boolean, True = defect; None where the data have no masks.
        view_scores: (M, V); usually the maximum of the view's map.
        view_labels: (M, V), True where the view shows a defect, read from the mask at its original size.
        sample_scores: (M,); usually the maximum over views.
        sample_labels: (M,), True where any view shows a defect.

    Returns:
        {"pixel": {"auroc", "ap", "f1_max", "aupro"}, "view": {"auroc", "ap", "f1_max"}, "sample": {as view}}.
        A value is None (null in JSON) where it is not defined: only one class at that level, or no masks.

    Raises:
        ValueError: a shape does not fit the others, a score is NaN, or a label is not 0 or 1.
    """
    if maps.ndim != 4:
        raise ValueError(f"evaluate: maps must be (M, V, H, W), got {list(maps.shape)}; add the missing axes")
    m, v = maps.shape[:2]
    for name, value, shape in (
        ("view_scores", view_scores, (m, v)),
        ("view_labels", view_labels, (m, v)),
        ("sample_scores", sample_scores, (m,)),
        ("sample_labels", sample_labels, (m,)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(
                f"evaluate: {name} must be {list(shape)}, got {list(value.shape)}; maps hold {m} samples of {v} views"
            )
    return {
        "pixel": _pixel_metrics(maps, masks),
        "view": _metrics(Curve.of(*checked_scores("evaluate", view_scores, view_labels, "view_scores", "view_labels"))),
        "sample": _metrics(
            Curve.of(*checked_scores("evaluate", sample_scores, sample_labels, "sample_scores", "sample_labels"))
        ),
    }


def summarize(results: Mapping[str, Result]) -> dict[str, object]:
    """Results per category and their mean.

    Each mean is over the categories where the metric is defined, and None where no category defines it.

    Args:
        results: category name -> what ``evaluate`` returned.

    Returns:
        {"categories": {name: result}, "mean": result}, ready for ``json.dump``.

    Raises:
        ValueError: no category was given.
    """
    if not results:
        raise ValueError("summarize: results must hold at least one category, got none; evaluate one first")
    mean: Result = {}
    for level, names in LEVELS.items():
        mean[level] = {}
        for name in names:
            defined = [value for r in results.values() if (value := r[level][name]) is not None]
            mean[level][name] = float(np.mean(defined)) if defined else None
    return {"categories": dict(results), "mean": mean}


def _metrics(curve: Curve | None) -> Metrics:
    if curve is None:
        return dict.fromkeys(LEVELS["sample"])
    return {"auroc": curve.auroc(), "ap": curve.average_precision(), "f1_max": curve.f1_max()}


def _pixel_metrics(maps: Array, masks: Array | None) -> Metrics:
    curve = None
    if masks is not None:
        scores, defects = checked_scores("evaluate", maps, masks, name="maps", label_name="masks")
        curve = Curve.of(scores, defects)
    if curve is None:
        return dict.fromkeys(LEVELS["pixel"])
    return {**_metrics(curve), "aupro": curve.aupro(region_weights(defects), limit=0.3)}
