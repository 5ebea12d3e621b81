"""What a threshold calls defective, and the threshold of the best F1."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vsad.metrics.arrays import Array, checked_scores
from vsad.metrics.curve import Curve


class Confusion(NamedTuple):
    """How many a threshold calls right and wrong.

    Args:
        found: anomalous, with a score of at least the threshold.
        missed: anomalous, with a lower one.
        false_alarms: normal, with a score of at least the threshold.
        passed: normal, with a lower one.
    """

    found: int
    missed: int
    false_alarms: int
    passed: int


def confusion(scores: Array, labels: Array, threshold: float) -> Confusion:
    """Count what ``score >= threshold`` calls right and wrong; nothing may be NaN.

    Raises:
        ValueError: shapes differ, nothing was given, a score or the threshold is NaN or a label is not 0 or 1.

    Example:
        >>> confusion(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]), 0.375)
        Confusion(found=1, missed=1, false_alarms=1, passed=1)
    """
    values, truth = checked_scores("confusion", scores, labels)
    if math.isnan(threshold):
        raise ValueError("confusion: threshold must be a number, got NaN; choose one, as f1_max_threshold does")
    called = values.astype(np.float64, copy=False) >= threshold
    found, alarms = int((called & truth).sum()), int((called & ~truth).sum())
    positives = int(truth.sum())
    return Confusion(found, positives - found, alarms, truth.size - positives - alarms)


def f1_max_threshold(scores: Array, labels: Array) -> float | None:
    """Find the threshold at which F1 of ``score >= threshold`` is best.

    It lies midway between the lowest score it accepts and the next lower one. Where nothing lower is given, or no
    number of the scores' type lies between the two, it is the lowest accepted score itself. Of several that are best,
    the highest is taken: it accepts the fewest.

    Args:
        scores, labels: as those of ``f1_max``.

    Returns:
        The threshold, a number of the scores' type; None where only one class is present.

    Raises:
        ValueError: as ``f1_max``.

    Example:
        >>> f1_max_threshold(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 0, 1, 1]))
        3.0
    """
    values, truth = checked_scores("f1_max_threshold", scores, labels)
    curve = Curve.of(values, truth)
    if curve is None:
        return None
    accepted = np.unique(values[truth])[::-1][curve.f1().argmax()]
    below = values[values < accepted]
    middle = accepted / 2 + below.max() / 2 if below.size else accepted
    return float(middle if below.size and below.max() < middle <= accepted else accepted)
