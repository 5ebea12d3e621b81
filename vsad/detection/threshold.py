"""The threshold: what a given share of good products exceeds, judged from a few of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from vsad.detection.moments import l_moments, l_skewness

# With so many scores beyond the threshold it is one of them; before, a distribution must be assumed.
_ENOUGH = 2
# Gumbel's distribution has the L-skewness 0.17; scores beyond this one are taken on a logarithmic scale.
_SKEWED = 0.3
# Two scores are measured by statistics that know both of them (vsad.detection.level): new ones may all lie beyond.
_KNOWN = 3
# In shares of the median score.
_NEAR_ZERO = 0.1
# Draws of the distributions, and what of them an interval leaves out at either side.
_DRAWS, _OUTSIDE = 10_000, 0.05


class Threshold(NamedTuple):
    """The score at or above which a sample is called defective, and how sure that is.

    Args:
        value: the threshold.
        interval: in which the exact threshold lies with 90 % confidence.
        asked: share of good products that may be called defective.
        rate: in which the share that will be lies with 90 % confidence at least; (0, 1) where nothing is known of it.
        samples: number of good products that it rests on.
        odd: what to say of those whose scores stand apart from all others and lift the threshold; None where none do.
    """

    value: float
    interval: tuple[float, float]
    asked: float
    rate: tuple[float, float]
    samples: int
    odd: str | None = None

    @property
    def doubts(self) -> list[str]:
        """What speaks against the threshold, in words."""
        return [said for said in (self.doubt, self.odd) if said is not None]

    @property
    def supported(self) -> bool:
        """Whether there are scores enough for the rate; else the threshold lies on a tail that is fitted to them."""
        return (self.samples + 1) * self.asked >= 1

    @property
    def known(self) -> bool:
        """Whether anything is known of the share of good products that will be called defective."""
        return self.rate != (0, 1)

    @property
    def doubt(self) -> str | None:
        """Why so few samples cannot support the rate that was asked for, in words; None where they do."""
        if self._is_given or (self.supported and self.known):
            return None
        enough = f"{max(math.ceil(1 / self.asked) - 1, _KNOWN)} samples or more would support it"
        if not self.known:
            return (
                f"threshold: false_alarms of {self.asked:g} cannot be known from {self._from}: any share of good "
                f"products, even all, may be called defective; {enough}"
            )
        return (
            f"threshold: false_alarms of {self.asked:g} cannot be supported by {self._from}: the threshold lies on a "
            f"fitted tail, and {self._told} of good products may be called defective "
            f"(90 % confidence); {enough}"
        )

    def describe(self) -> str:
        """The threshold in a line, and what it promises."""
        low, high = self.interval
        if self._is_given:
            told = f"{self._told} false alarms to be expected, from {self._from}"
            return f"{self.value:.3g}" + (f"; {told}" if self.samples else "")
        if not self.known:
            return (
                f"{self.value:.3g}, from {self._from}: {self.asked:.1%} false alarms asked, but so few samples cannot "
                "tell how many will come"
            )
        return (
            f"{self.value:.3g} (90% interval {low:.3g} to {high:.3g}), from {self._from}: "
            f"{self.asked:.1%} false alarms asked, {self._told} to be expected"
        )

    @property
    def _is_given(self) -> bool:
        """Whether it was not estimated: what it leads to is all that is known."""
        return self.interval[0] == self.interval[1]

    @property
    def _from(self) -> str:
        return f"{self.samples} good {'sample' if self.samples == 1 else 'samples'}"

    @property
    def _told(self) -> str:
        least, most = self.rate
        return f"{least:.1%} to {most:.1%}" if least else f"up to {most:.1%}"


def fit_threshold(scores: Sequence[float], asked: float) -> Threshold:
    """Choose the threshold that a share ``asked`` of good products exceeds, on average over which n were scored.

    Of many scores it is the one at rank ``(n + 1) (1 - asked)``, interpolated: whatever their distribution, a new good
    product exceeds it with probability ``asked`` (conformal prediction). Where that would rest on fewer than the two
    highest, a distribution is assumed: scores are maxima over many pixels, which tends to Gumbel's, ``P(X <= x) =
    exp(-exp(-(x - mu) / sigma))``. Its location m and scale s are estimated by L-moments, and

        t = m + k s,    k such that a new value of the same distribution exceeds t with probability ``asked``

    over all draws of the n and the new one, so that k, which is found by simulation, grows where few samples leave m
    and s uncertain. Scores that are more skewed than Gumbel's by far, as where few products have something odd, are
    taken by their logarithms, whose Gumbel distribution is Frechet's. On maxima of other distributions the rate is off
    by a factor of 1.6 at most, on average.

    What is told of the rate rests on no distribution: of b of n scores at or above t, it is at most Beta(b + 1, n - b);
    where t is estimated from an assumed distribution, nothing is said of the least that it may be.

    Args:
        scores: sample scores of good products that nothing in the detector has seen.
        asked: between 0 and 1.

    Returns:
        The threshold. With a single score it is that score, and its interval is unbounded; of the rate, one or two
        scores tell nothing.

    Raises:
        ValueError: there is no score, or one is NaN.

    Source: Vovk et al. 2005 (conformal prediction); Hosking 1990 (L-moments).
    """
    n = len(scores)
    if not n:
        raise ValueError("fit_threshold: scores must hold at least one good sample's, got none; add some")
    ranked = np.sort(np.asarray(scores, dtype=np.float64))
    if np.isnan(ranked).any():
        # No score is at or above a threshold of NaN: every product would be called good.
        raise ValueError("fit_threshold: scores must be numbers, got NaN; look for images or features that hold any")
    if n == 1:
        return Threshold(float(ranked[0]), (-math.inf, math.inf), asked, (0.0, 1.0), n)
    enough = min(asked, 1 - asked) * (n + 1) >= _ENOUGH
    value, exact, rate = (_conformal if enough else _gumbel)(ranked, asked)
    outside = [_OUTSIDE, 1 - _OUTSIDE]
    (low, high), (least, most) = np.quantile(exact, outside), np.quantile(rate, outside)
    told = (float(least) if enough else 0.0, float(most)) if n >= _KNOWN else (0.0, 1.0)
    return Threshold(float(value), (float(low), float(high)), asked, told, n)


def _conformal(ranked: np.ndarray, asked: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The threshold, and draws of the exact one and of the rate, from the order of the scores alone."""
    n, rng = len(ranked), np.random.default_rng(0)
    rank = (n + 1) * (1 - asked)
    value = np.interp(rank, np.arange(1, n + 1), ranked)
    beyond = rng.binomial(n, asked, _DRAWS)  # how many scores the exact threshold leaves above it
    return float(value), ranked[np.clip(n - 1 - beyond, 0, n - 1)], rng.beta(n + 1 - rank, rank, _DRAWS)


def _gumbel(ranked: np.ndarray, asked: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The same from a Gumbel distribution with their L-moments; of the rate, draws of the most that it may be."""
    location, scale, new = _gumbel_draws(len(ranked))
    k = np.quantile((new - location) / scale, 1 - asked)
    # The logarithms of scores next to 0 would be skewed the other way.
    skewed = ranked[0] > _NEAR_ZERO * max(np.median(ranked), 0) and l_skewness(ranked) > _SKEWED
    m, s = l_moments(np.log(ranked) if skewed else ranked)
    exact = m + s * (-math.log(-math.log1p(-asked)) - location) / scale
    value = float(m + k * s)
    if skewed:
        value, exact = math.exp(min(value, 700)), np.exp(np.minimum(exact, 700))
    beyond = int((ranked >= value).sum())
    return value, exact, np.random.default_rng(0).beta(beyond + 1, max(len(ranked) - beyond, 1e-9), _DRAWS)


@cache
def _gumbel_draws(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Location and scale as n values of the standard Gumbel distribution give them, and a new value; many draws."""
    rng = np.random.default_rng(0)
    location, scale = l_moments(np.sort(rng.gumbel(size=(_DRAWS, n))))
    return location, scale, rng.gumbel(size=_DRAWS)


def warn_of_extrapolation(threshold: Threshold) -> None:
    """Warn where so few samples cannot support the rate that was asked for, and of those that lift the threshold."""
    for said in threshold.doubts:
        warnings.warn(said, stacklevel=3)
