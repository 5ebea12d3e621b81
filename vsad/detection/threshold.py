"""The threshold: what a given share of good products exceeds, judged from a few of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The tail is fitted to the upper half of the scores, at most so many: farther down they say nothing of it.
_TAIL = 25
# Draws of the interval, and what of them it leaves out at either side.
_DRAWS, _OUTSIDE = 20_000, 0.05


class Threshold(NamedTuple):
    """The score at or above which a sample is called defective, and how sure that is.

    Args:
        value: the threshold.
        interval: in which the exact threshold lies with 90 % confidence.
        asked: share of good products that may be called defective.
        rate: in which the share that will be lies with 90 % confidence.
        samples: number of good products that it rests on.
    """

    value: float
    interval: tuple[float, float]
    asked: float
    rate: tuple[float, float]
    samples: int

    @property
    def supported(self) -> bool:
        """Whether the scores reach as far as the threshold; else it is extrapolated beyond all of them."""
        return (self.samples + 1) * self.asked >= 1


def fit_threshold(scores: Sequence[float], asked: float) -> Threshold:
    """Choose the threshold that a share ``asked`` of good products exceeds, on average over what was drawn.

    Scores are maxima of many pixels, and the upper tails of maxima are close to exponential. With u the score of which
    m of n are larger, and b the mean of these m excesses over u,

        t = u + m b ((p / asked)^(1/m) - 1),    p = (m + 1) / (n + 1).

    A new product exceeds u with probability p on average, and with an exponential tail of unknown scale its excess
    exceeds ``c b`` with probability ``(1 + c/m)^-m``, the predictive distribution: so exactly ``asked`` of new good
    products exceed t on average, for any n. (``p exp(-c)``, which takes b for the true scale, gives too many.) Of one
    station the rate is uncertain: ``B exp(-c G / m)``, with B from a Beta(m + 1, n - m) and G from a Gamma(m)
    distribution; ``rate`` are its quantiles, and ``interval`` those of the threshold that gives ``asked`` exactly.

    Args:
        scores: sample scores of good products that nothing in the detector has seen.
        asked: between 0 and 1.

    Returns:
        The threshold. With a single score it is that score, and its intervals are unbounded.

    Raises:
        ValueError: there is no score.
    """
    n = len(scores)
    if not n:
        raise ValueError("fit_threshold: scores must hold at least one good sample's, got none; add some")
    ranked = np.sort(np.asarray(scores, dtype=np.float64))
    if n == 1:
        return Threshold(float(ranked[0]), (-math.inf, math.inf), asked, (0.0, 1.0), n)
    m = min(max(n // 2, 1), _TAIL)
    m = max(m, min(n - 1, math.ceil(asked * (n + 1))))  # the tail reaches down to what is asked
    u = ranked[n - m - 1]
    scale = max(float((ranked[n - m :] - u).mean()), 1e-12)
    c = max(0.0, m * (((m + 1) / ((n + 1) * asked)) ** (1 / m) - 1))
    rng = np.random.default_rng(0)
    above, spread = rng.beta(m + 1, n - m, _DRAWS), rng.gamma(m, size=_DRAWS) / m
    outside = [_OUTSIDE, 1 - _OUTSIDE]
    rate = np.quantile(above * np.exp(-c * spread), outside)
    exact = np.quantile(u + scale / spread * np.log(above / asked), outside)
    interval = (float(exact[0]), float(exact[1]))
    return Threshold(float(u + c * scale), interval, asked, (float(rate[0]), float(rate[1])), n)


def warn_of_extrapolation(threshold: Threshold) -> None:
    """Warn where so few samples cannot support the rate that was asked for."""
    if threshold.supported:
        return
    low, high = threshold.rate
    warnings.warn(
        f"detector: false_alarms of {threshold.asked:g} cannot be supported by {threshold.samples} good samples: the "
        f"threshold lies beyond all their scores, on a fitted tail, and {low:.1%} to {high:.1%} of good products may "
        f"be called defective (90 % confidence); {math.ceil(1 / threshold.asked) - 1} samples or more would support it",
        stacklevel=3,
    )
