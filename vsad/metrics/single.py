"""Exact anomaly metrics, one by one: AUROC, AP, F1-max and AUPRO."""

from __future__ import annotations

from vsad.metrics.arrays import Array, checked_scores
from vsad.metrics.curve import Curve
from vsad.metrics.pixels import PixelScores, checked_maps, checked_masks


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
    curve = Curve.of(*checked_scores("auroc", scores, labels))
    return None if curve is None else float(curve.auroc())


def average_precision(scores: Array, labels: Array) -> float | None:
    """Average precision as scikit-learn defines it: sum of (R_n - R_{n-1}) P_n over distinct thresholds.

    Arguments, None and errors are those of ``auroc``.

    Example:
        >>> import numpy as np
        >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4)
        0.8333
    """
    curve = Curve.of(*checked_scores("average_precision", scores, labels))
    return None if curve is None else float(curve.average_precision())


def f1_max(scores: Array, labels: Array) -> float | None:
    """The best F1 = 2 TP / (2 TP + FP + FN) over every distinct threshold; positive is score >= threshold.

    Arguments, None and errors are those of ``auroc``.

    Example:
        >>> import numpy as np
        >>> f1_max(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        0.8
    """
    curve = Curve.of(*checked_scores("f1_max", scores, labels))
    return None if curve is None else float(curve.f1().max())


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
    scores = checked_maps("aupro", maps)
    pixels = PixelScores()
    pixels.add_checked(scores, checked_masks("aupro", masks, scores))
    curve = pixels.curve()
    return None if curve is None else curve.aupro(limit)
