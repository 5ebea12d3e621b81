"""How far a metric might be off, had other samples been tested: percentile bootstrap over samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from vsad.metrics.arrays import Array, checked_scores
from vsad.metrics.curve import Curve, tie_ends

Interval: TypeAlias = tuple[float, float]
NAMES = ("auroc", "ap", "f1_max")
# Draws are worked on in groups of so many scores, 4 MB of int64, which caches hold.
_HELD = 1 << 19


def bootstrap(
    scores: Array, labels: Array, *, draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval | None]:
    """Bound AUROC, AP and F1-max by the percentiles of what resampled test sets would have measured.

    A draw takes as many samples as there are, with replacement, and takes a sample whole: its views move together,
    for they show one object. It keeps the number of samples that have a positive and of those that have none, as test
    sets are collected with these numbers chosen; so the interval says nothing of another share of defects, on which AP
    and F1-max depend. Draws that hold one class only, which takes views of a set without normal samples, are left out.

    An interval has no width where every draw ranks perfectly. That is no proof of perfection: with few samples, the
    next may still be wrong.

    Args:
        scores: ``(S,)`` of samples or ``(S, V)`` of their views, higher is more anomalous, no NaN.
        labels: the same shape, boolean or 0/1, True = anomalous.
        draws: how many resampled test sets.
        confidence: with which the interval holds the metric, in (0, 1).
        seed: the same seed gives the same intervals.

    Returns:
        {"auroc", "ap", "f1_max"}: the interval's ends; None where only one class is present.

    Raises:
        ValueError: shapes differ, nothing was given, a score is NaN, a label is not 0 or 1, no draw or no such
            confidence.

    Example:
        >>> bootstrap(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))["auroc"]
        (0.0, 1.0)

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; strata as in Robin et al., "pROC",
    BMC Bioinformatics 12:77, 2011; whole samples as in Rutter, "Bootstrap estimation of diagnostic accuracy with
    patient-clustered data", Academic Radiology 7, 2000.
    """
    values, truth = checked_scores("bootstrap", scores, labels)
    if values.ndim not in (1, 2):
        raise ValueError(f"bootstrap: scores must be (S,) or (S, V), got {list(values.shape)}; put samples first")
    if draws < 1:
        raise ValueError(f"bootstrap: draws must be at least 1, got {draws}; 1000 is the usual choice")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"bootstrap: confidence must be in (0, 1), got {confidence}; 0.95 is the usual choice")
    if truth.all() or not truth.any():
        return dict.fromkeys(NAMES)
    measured = [
        np.stack([curve.auroc(), curve.average_precision(), curve.f1().max(-1)])
        for curve in _curves(values.reshape(len(values), -1), truth.reshape(len(truth), -1), draws, seed)
    ]
    found = np.concatenate(measured, axis=1)  # (3, draws that hold both classes)
    if not found.size:
        return dict.fromkeys(NAMES)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    return dict(zip(NAMES, zip(low.tolist(), high.tolist())))


def _curves(scores: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Iterator[Curve]:
    """Curves of the draws that hold both classes, a group of draws at a time.

    A sample that is drawn twice weighs two: the scores of ``(S, V)`` are sorted once for all draws.
    """
    order = np.argsort(scores, axis=None)[::-1]
    last = tie_ends(scores.ravel()[order])
    positive = labels.ravel()[order]
    sample = order // scores.shape[1]
    strata = [part for part in (np.flatnonzero(labels.any(1)), np.flatnonzero(~labels.any(1))) if len(part)]
    generator = np.random.default_rng(seed)
    group = max(1, _HELD // scores.size)
    for first in range(0, draws, group):
        copies = _copies(generator, strata, min(group, draws - first))
        weights = copies[:, sample]  # (draws, S V)
        accepted = np.cumsum(weights, axis=1)[:, last]
        tp = np.cumsum(weights * positive, axis=1)[:, last]
        fp = accepted - tp
        both = (tp[:, -1] > 0) & (fp[:, -1] > 0)
        tp, fp = tp[both], fp[both]
        above = np.concatenate([np.zeros_like(fp[:, :1]), fp[:, :-1]], axis=1)
        yield Curve(tp, fp, above, fp[:, -1])


def _copies(generator: np.random.Generator, strata: list[np.ndarray], draws: int) -> np.ndarray:
    """(draws, S) how often each sample is drawn, every stratum as often as it has samples."""
    copies = np.zeros((draws, sum(map(len, strata))), np.int64)
    for part in strata:
        drawn = generator.integers(len(part), size=(draws, len(part)))
        drawn += np.arange(draws)[:, None] * len(part)  # every draw counts in a row of its own
        copies[:, part] = np.bincount(drawn.ravel(), minlength=draws * len(part)).reshape(draws, len(part))
    return copies
