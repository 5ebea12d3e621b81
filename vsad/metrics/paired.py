"""Whether a difference is more than chance: intervals of the mean of a few paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence


def t_quantile(confidence: float, freedom: int) -> float:
    """Find t such that ``P(|T| <= t) = confidence`` for Student's distribution of ``freedom`` degrees, at least 1.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4, solved by bisection.

    Example:
        >>> round(t_quantile(0.9, 2), 3)
        2.92
    """
    low, high = 0.0, math.pi / 2  # T = tan(angle) sqrt(freedom)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """``P(|T| <= tan(angle) sqrt(freedom))``, a finite series."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def paired_interval(
    values: Sequence[float], others: Sequence[float], confidence: float = 0.9
) -> tuple[float, float] | None:
    """Bound the mean of paired differences ``d = values - others`` by ``mean(d) +- t s(d) / sqrt(n)``.

    Args:
        values, others: n of each; those of one place belong together, such as results on one data set.
        confidence: with which the interval holds the mean, where the differences are normally distributed.

    Returns:
        The ends of the interval; None for fewer than two pairs, which show no spread.

    Example:
        >>> paired_interval([0.9], [0.8]) is None
        True
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    half = t_quantile(confidence, n - 1) * deviation / math.sqrt(n)
    return mean - half, mean + half
