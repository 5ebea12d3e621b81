"""Good samples whose scores stand apart from all others: one of them lifts the threshold, and may be no good one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

from vsad.detection.moments import l_moments
from vsad.detection.threshold import Threshold, fit_threshold

# Of stations whose samples are all alike, the share of which one is said to be odd.
FALSE_ALARMS = 0.01
# So many stand apart at most, and one of so many.
_MOST, _OF = 3, 4
# Draws by which gaps are judged, those that memory holds together, and the number of scores beyond which what they give
# hardly changes.
_DRAWS, _AT_ONCE, _SAMPLES = 20_000, 500, 60
# Odd samples that lift the threshold by less are not worth a word.
_LIFTED = 1.1


def name_odd(
    threshold: Threshold,
    scores: Sequence[float],
    names: Sequence[str],
    score: Callable[[Sequence[int]], Iterable[float]] | None = None,
) -> Threshold:
    """The threshold, with what is to be said of good samples that stand apart and lift it.

    Args:
        threshold: ``fit_threshold`` of the scores.
        scores: of good samples.
        names: theirs.
        score: gives what the samples of some indices score without the others; None where that is the same.
    """
    odd = find_odd(scores)
    kept = [i for i in range(len(scores)) if i not in odd]
    others = [scores[i] for i in kept]
    if not odd or threshold.value < _LIFTED * fit_threshold(others, threshold.asked).value:
        return threshold
    others = [*(others if score is None else score(kept))]
    named = ", ".join(f"{names[i]} (score {scores[i]:.3g})" for i in odd)
    stand, lift, their, them, they_are = (
        ("stands", "lifts", "its", "it", "it is") if len(odd) == 1 else ("stand", "lift", "their", "them", "they are")
    )
    return threshold._replace(
        odd=f"threshold: {named} {stand} apart from the other {len(others)} good samples ({max(others):.3g} at most) "
        f"and {lift} the threshold from {fit_threshold(others, threshold.asked).value:.3g} to {threshold.value:.3g}; "
        f"look at {their} pictures, and leave {them} out unless {they_are} as good as the others"
    )


def find_odd(scores: Sequence[float]) -> list[int]:
    """Find the scores between which and all lower ones there is a gap that chance does not explain.

    Scores are maxima over many pixels, which tends to Gumbel's distribution, or, where they are skewed, to Frechet's,
    whose logarithms are Gumbel's. With ascending scores x and the scale s of the n - j lowest by L-moments,

        (x[n - j] - x[n - j - 1]) / s    for j = 1, 2, 3

    is compared with what n values of Gumbel's distribution give: such a gap, for any j, has a probability of
    ``FALSE_ALARMS``, for the scores and for their logarithms. Less than four samples tell nothing.

    Returns:
        The indices of the j highest scores, for the largest such j, the highest first; none where none stands apart.

    Source: gap tests of outliers (Dixon 1950), several as one block (Tietjen and Moore 1972).
    """
    values = np.asarray(scores, dtype=np.float64)
    order, n = np.argsort(values, kind="stable"), len(values)
    most, ranked = min(_MOST, n // _OF), values[order]
    if not most or not np.isfinite(ranked).all():
        return []
    gaps = _gaps(ranked, most)
    if ranked[0] > 0:
        gaps = np.minimum(gaps, _gaps(np.log(ranked), most))
    apart = np.flatnonzero(gaps > _largest_by_chance(min(n, _SAMPLES)))
    return [int(i) for i in order[n - 1 - apart[-1] :][::-1]] if len(apart) else []


def _gaps(ranked: np.ndarray, most: int) -> np.ndarray:
    """The gap below the j highest of ascending scores ``(..., n)``, in scales of the others: ``(..., most)``."""
    n = ranked.shape[-1]
    gaps = [
        (ranked[..., n - j] - ranked[..., n - j - 1]) / l_moments(ranked[..., : n - j])[1] for j in range(1, most + 1)
    ]
    return np.stack(gaps, axis=-1)


@cache
def _largest_by_chance(n: int) -> np.ndarray:
    """What the gaps of n values of Gumbel's distribution exceed in a share of ``FALSE_ALARMS``, for all j together."""
    most = min(_MOST, n // _OF)
    rng = np.random.default_rng(0)
    drawn = (np.sort(rng.gumbel(size=(_AT_ONCE, n))) for _ in range(_DRAWS // _AT_ONCE))
    found: np.ndarray = np.quantile(
        np.concatenate([_gaps(each, most) for each in drawn]), 1 - FALSE_ALARMS / most, axis=0
    )
    return found
