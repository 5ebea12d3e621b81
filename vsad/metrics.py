"""Exact anomaly metrics at pixel, view and sample level: AUROC, AP, F1-max and AUPRO.

Every metric here is a function of one small curve: for each distinct score of a positive, how many positives
and negatives score at least as much, and how many negatives score more. Thresholds that only negatives reach
change none of the metrics, so negatives are sorted by value alone, without an index, and looked up: 10^8 pixels
need one copy of the maps. Values of equal score enter together, so ties are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from torch import Tensor

Array: TypeAlias = np.ndarray | Tensor
Metrics: TypeAlias = dict[str, float | None]
Result: TypeAlias = dict[str, Metrics]

LEVELS: dict[str, tuple[str, ...]] = {
    "pixel": ("auroc", "ap", "f1_max", "aupro"),
    "view": ("auroc", "ap", "f1_max"),
    "sample": ("auroc", "ap", "f1_max"),
}


def auroc(scores: Array, labels: Array) -> float | None:
    """Area under the ROC curve: the chance that a positive outscores a negative, a tie counting one half.

    Args:
        scores: any shape, higher is more anomalous, no NaN. float64 is ranked as such, all else as float32.
        labels: same shape, boolean or 0/1, True = anomalous.

    Returns:
        A value in [0, 1], or None where only one class is present: the metric is then not defined.

    Raises:
        ValueError: shapes differ, nothing was given, a score is NaN or a label is not 0 or 1.

    Example:
        >>> import numpy as np
        >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        0.75
    """
    curve = _rank(*_checked("auroc", scores, labels))
    return None if curve is None else _auroc(curve)


def average_precision(scores: Array, labels: Array) -> float | None:
    """Average precision as scikit-learn defines it: sum of (R_n - R_{n-1}) P_n over distinct thresholds.

    Arguments, None and errors are those of :func:`auroc`.

    Example:
        >>> import numpy as np
        >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4)
        0.8333
    """
    curve = _rank(*_checked("average_precision", scores, labels))
    return None if curve is None else _average_precision(curve)


def f1_max(scores: Array, labels: Array) -> float | None:
    """The best F1 = 2 TP / (2 TP + FP + FN) over every distinct threshold; positive is score >= threshold.

    Arguments, None and errors are those of :func:`auroc`.

    Example:
        >>> import numpy as np
        >>> f1_max(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        0.8
    """
    curve = _rank(*_checked("f1_max", scores, labels))
    return None if curve is None else _f1_max(curve)


def aupro(maps: Array, masks: Array, limit: float = 0.3) -> float | None:
    """Area under the per-region overlap curve up to a false-positive rate, divided by that rate.

    PRO(t) is the mean over defect regions of the share of the region with score >= t; FPR(t) is the share of
    normal pixels with score >= t. PRO against FPR is integrated by trapezoids from 0 to ``limit``, interpolated
    linearly there. A region is an 8-connected component of one image's mask.

    Args:
        maps: (..., H, W) scores; every leading index is an image of its own.
        masks: (..., H, W) boolean or 0/1, True = defect.
        limit: the largest false-positive rate, in (0, 1].

    Returns:
        A value in [0, 1], or None where the masks are all True or all False.

    Raises:
        ValueError: shapes differ, a score is NaN, a mask is not 0/1, or the limit is outside (0, 1].

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021.
    """
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"aupro: limit must be in (0, 1], got {limit}; 0.3 is the usual choice")
    scores, defects = _checked("aupro", maps, masks, name="maps", label_name="masks")
    if scores.ndim < 2:
        raise ValueError(f"aupro: maps must be (..., H, W), got {list(scores.shape)}; keep the image axes apart")
    curve = _rank(scores, defects)
    return None if curve is None else _aupro(curve, _region_weights(defects), limit)


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
        view_scores: (M, V); by default the maximum of the view's map.
        view_labels: (M, V), True where the view shows a defect, read from the mask at its original size.
        sample_scores: (M,); by default the maximum over views.
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
        "view": _metrics(_rank(*_checked("evaluate", view_scores, view_labels, "view_scores", "view_labels"))),
        "sample": _metrics(
            _rank(*_checked("evaluate", sample_scores, sample_labels, "sample_scores", "sample_labels"))
        ),
    }


def summarize(results: Mapping[str, Result]) -> dict[str, object]:
    """Results per category and their mean.

    Each mean is over the categories where the metric is defined, and None where no category defines it.

    Args:
        results: category name -> what :func:`evaluate` returned.

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


@dataclass(frozen=True)
class _Curve:
    """What a descending threshold accepts, at each of the T distinct scores of the positives."""

    order: np.ndarray  # (P,) positives by descending score
    tp: np.ndarray  # (T,) positives at or above the threshold
    fp: np.ndarray  # (T,) negatives at or above it
    fp_above: np.ndarray  # (T,) negatives strictly above it
    negatives: int

    @property
    def positives(self) -> int:
        return len(self.order)

    @property
    def gain(self) -> np.ndarray:
        """(T,) positives whose score is the threshold itself."""
        return np.diff(self.tp, prepend=0)


def _rank(scores: np.ndarray, labels: np.ndarray) -> _Curve | None:
    """The curve of checked arrays; None where only one class is present."""
    positive = scores[labels]
    negative = scores[~labels]
    if not positive.size or not negative.size:
        return None
    negative.sort()  # a copy already: boolean indexing made it
    order = np.argsort(positive)[::-1]
    ranked = positive[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last of every run of ties
    thresholds = ranked[last]
    count = len(negative)
    return _Curve(
        order=order,
        tp=last + 1,
        fp=count - np.searchsorted(negative, thresholds, side="left"),
        fp_above=count - np.searchsorted(negative, thresholds, side="right"),
        negatives=count,
    )


def _auroc(curve: _Curve) -> float:
    beaten = curve.negatives - 0.5 * (curve.fp + curve.fp_above)
    return float(curve.gain @ beaten / (curve.positives * curve.negatives))


def _average_precision(curve: _Curve) -> float:
    return float(curve.gain @ (curve.tp / (curve.tp + curve.fp)) / curve.positives)


def _f1_max(curve: _Curve) -> float:
    # 2 TP + FP + FN = TP + FP + P
    return float((2 * curve.tp / (curve.tp + curve.fp + curve.positives)).max())


def _aupro(curve: _Curve, weights: np.ndarray, limit: float) -> float:
    """Integrates PRO over FPR; ``weights`` (P,) is each defect pixel's share of its own region."""
    overlap = np.cumsum(weights[curve.order])
    overlap = (overlap / overlap[-1])[curve.tp - 1]  # the sum is the number of regions, up to rounding
    # From one threshold to the next FPR first grows at constant overlap; then the tied values enter together.
    rate = np.stack([curve.fp_above, curve.fp], axis=1).ravel() / curve.negatives
    overlap = np.stack([np.append(0.0, overlap[:-1]), overlap], axis=1).ravel()
    rate, overlap = np.append(rate, 1.0), np.append(overlap, 1.0)
    inside = rate <= limit
    x = np.concatenate([[0.0], rate[inside], [limit]])
    y = np.concatenate([[0.0], overlap[inside], [np.interp(limit, rate, overlap)]])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / (2 * limit))


def _region_weights(masks: np.ndarray) -> np.ndarray:
    """1 / area of its region for each defect pixel, in row-major order."""
    weights = []
    for mask in masks.reshape(-1, *masks.shape[-2:]):
        if not mask.any():
            continue
        _, region = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        region = region[mask]
        weights.append(1.0 / np.bincount(region)[region])
    return np.concatenate(weights)


def _metrics(curve: _Curve | None) -> Metrics:
    if curve is None:
        return dict.fromkeys(LEVELS["sample"])
    return {"auroc": _auroc(curve), "ap": _average_precision(curve), "f1_max": _f1_max(curve)}


def _pixel_metrics(maps: Array, masks: Array | None) -> Metrics:
    curve = None
    if masks is not None:
        scores, defects = _checked("evaluate", maps, masks, name="maps", label_name="masks")
        curve = _rank(scores, defects)
    if curve is None:
        return dict.fromkeys(LEVELS["pixel"])
    return {**_metrics(curve), "aupro": _aupro(curve, _region_weights(defects), limit=0.3)}


def _checked(
    op: str, scores: Array, labels: Array, name: str = "scores", label_name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float32 or float64 and labels as bool, of one shape; no copy where the types already fit."""
    values, truth = as_numpy(scores), as_numpy(labels)
    if values.shape != truth.shape:
        raise ValueError(
            f"{op}: {label_name} must be {list(values.shape)} like {name}, got {list(truth.shape)}; "
            f"give one label for each score"
        )
    if not values.size:
        raise ValueError(f"{op}: {name} must hold at least one value, got {list(values.shape)}; check the test set")
    if values.dtype != np.float64:
        values = values.astype(np.float32, copy=False)
    if np.isnan(values.min()):  # the minimum passes NaN on and needs no array of its own
        where = tuple(int(i) for i in np.unravel_index(int(np.isnan(values).argmax()), values.shape))
        raise ValueError(f"{op}: {name} must not be NaN, got NaN at index {where}; look at that input's features")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise ValueError(
                f"{op}: {label_name} must be boolean or 0/1, got values from {truth.min()} to {truth.max()}; "
                f"binarize them first"
            )
        truth = truth.astype(bool)
    return values, truth


def as_numpy(value: Array | Sequence[float]) -> np.ndarray:
    """The array of a tensor or array on any device; half precisions become float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:  # numpy has no bfloat16
            value = value.float()
        return value.numpy()
    return np.asarray(value)
