"""The one small curve of which every metric is a function.

For each distinct score of a positive: how many positives and negatives score at least as much, and how many negatives
score more. Thresholds that only negatives reach change none of the metrics, so negatives are sorted by value alone,
without an index, and looked up. Values of equal score enter together, so ties are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """What a descending threshold accepts, at each of T scores, every distinct score of a positive among them.

    Leading axes are curves of their own, such as the draws of a bootstrap.

    Args:
        tp: ``(..., T)`` number of positives at or above the threshold, at the last one all of them.
        fp: ``(..., T)`` number of negatives at or above it.
        fp_above: ``(..., T)`` number of negatives strictly above it.
        negatives: ``(...)`` number of all negatives.
    """

    tp: np.ndarray
    fp: np.ndarray
    fp_above: np.ndarray
    negatives: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, labels: np.ndarray) -> Curve | None:
        """Make the curve of checked arrays; None where only one class is present."""
        positives, negatives = scores[labels], scores[~labels]  # copies, so that sorting leaves the scores alone
        if not positives.size or not negatives.size:
            return None
        positives.sort()
        negatives.sort()
        return cls.of_sorted(positives[::-1], negatives)

    @classmethod
    def of_sorted(cls, positives: np.ndarray, negatives: np.ndarray) -> Curve:
        """Make the curve of positives in descending and negatives in ascending order."""
        last = tie_ends(positives)
        thresholds = positives[last]
        count = len(negatives)
        return cls(
            tp=last + 1,
            fp=count - np.searchsorted(negatives, thresholds, side="left"),
            fp_above=count - np.searchsorted(negatives, thresholds, side="right"),
            negatives=np.asarray(count),
        )

    @property
    def positives(self) -> np.ndarray:
        """(...) number of all positives."""
        return self.tp[..., -1]

    @property
    def gain(self) -> np.ndarray:
        """(..., T) positives whose score is the threshold itself."""
        return np.diff(self.tp, prepend=0)

    def auroc(self) -> np.ndarray:
        """(...) area under the ROC curve."""
        beaten = self.negatives[..., None] - 0.5 * (self.fp + self.fp_above)
        return (self.gain * beaten).sum(-1) / (self.positives * self.negatives)

    def average_precision(self) -> np.ndarray:
        """(...) sum of the precision at every threshold, weighted by what it gains in recall."""
        accepted = np.maximum(self.tp + self.fp, 1)  # where nothing is accepted, nothing is gained
        return (self.gain * (self.tp / accepted)).sum(-1) / self.positives

    def f1(self) -> np.ndarray:
        """(..., T) F1 at every threshold; its denominator 2 TP + FP + FN is TP + FP + P."""
        return 2 * self.tp / (self.tp + self.fp + self.positives[..., None])

    def path(self, height: np.ndarray, at: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Walk a curve over the false-positive rate, from (0, 0) to (1, 1).

        From one threshold to the next the rate first grows at constant height; then the tied values enter together.

        Args:
            height: ``(T,)`` of the curve at every threshold, in [0, 1].
            at: ascending indices of the thresholds to walk; None for all.

        Returns:
            The rates and the heights, ``(2 len(at) + 2,)`` each.
        """
        at = np.arange(len(height)) if at is None else at
        before = np.where(at > 0, height[at - 1], 0.0)
        rate = np.stack([self.fp_above[at], self.fp[at]], axis=1).ravel() / self.negatives
        heights = np.stack([before, height[at]], axis=1).ravel()
        return np.concatenate([[0.0], rate, [1.0]]), np.concatenate([[0.0], heights, [1.0]])


def tie_ends(ranked: np.ndarray) -> np.ndarray:
    """Find the index of the last value of every run of equal values in a sorted array."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))


def until(rate: np.ndarray, height: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut a path off at a false-positive rate, interpolating linearly there."""
    inside = np.searchsorted(rate, limit, side="right")
    end = np.interp(limit, rate[inside - 1 : inside + 1], height[inside - 1 : inside + 1])
    return np.append(rate[:inside], limit), np.append(height[:inside], end)
