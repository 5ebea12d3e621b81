"""The one small curve of which every metric is a function.

For each distinct score of a positive: how many positives and negatives score at least as much, and how many negatives
score more. Thresholds that only negatives reach change none of the metrics, so negatives are sorted by value alone,
without an index, and looked up: 10^8 pixels need one copy of the maps. Values of equal score enter together, so ties
are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Curve:
    """What a descending threshold accepts, at each of the T distinct scores of the P positives.

    Args:
        order: ``(P,)`` positives by descending score.
        tp: ``(T,)`` number of positives at or above the threshold.
        fp: ``(T,)`` number of negatives at or above it.
        fp_above: ``(T,)`` number of negatives strictly above it.
        negatives: number of all negatives.
    """

    order: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fp_above: np.ndarray
    negatives: int

    @property
    def positives(self) -> int:
        """Number of all positives."""
        return len(self.order)

    @property
    def gain(self) -> np.ndarray:
        """(T,) positives whose score is the threshold itself."""
        return np.diff(self.tp, prepend=0)

    @classmethod
    def of(cls, scores: np.ndarray, labels: np.ndarray) -> Curve | None:
        """Make the curve of checked arrays; None where only one class is present."""
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
        return cls(
            order=order,
            tp=last + 1,
            fp=count - np.searchsorted(negative, thresholds, side="left"),
            fp_above=count - np.searchsorted(negative, thresholds, side="right"),
            negatives=count,
        )

    def auroc(self) -> float:
        """Area under the ROC self."""
        beaten = self.negatives - 0.5 * (self.fp + self.fp_above)
        return float(self.gain @ beaten / (self.positives * self.negatives))

    def average_precision(self) -> float:
        """Sum of the precision at every threshold, weighted by what it gains in recall."""
        return float(self.gain @ (self.tp / (self.tp + self.fp)) / self.positives)

    def f1_max(self) -> float:
        """The best F1 over the thresholds; its denominator 2 TP + FP + FN is TP + FP + P."""
        return float((2 * self.tp / (self.tp + self.fp + self.positives)).max())

    def aupro(self, weights: np.ndarray, limit: float) -> float:
        """Integrate PRO over FPR; ``weights`` (P,) is each defect pixel's share of its own region."""
        overlap = np.cumsum(weights[self.order])
        overlap = (overlap / overlap[-1])[self.tp - 1]  # the sum is the number of regions, up to rounding
        # From one threshold to the next FPR first grows at constant overlap; then the tied values enter together.
        rate = np.stack([self.fp_above, self.fp], axis=1).ravel() / self.negatives
        overlap = np.stack([np.append(0.0, overlap[:-1]), overlap], axis=1).ravel()
        rate, overlap = np.append(rate, 1.0), np.append(overlap, 1.0)
        inside = rate <= limit
        x = np.concatenate([[0.0], rate[inside], [limit]])
        y = np.concatenate([[0.0], overlap[inside], [np.interp(limit, rate, overlap)]])
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / (2 * limit))


def region_weights(masks: np.ndarray) -> np.ndarray:
    """1 / area of its region for each defect pixel, in row-major order."""
    weights = []
    for mask in masks.reshape(-1, *masks.shape[-2:]):
        if not mask.any():
            continue
        _, region = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        region = region[mask]
        weights.append(1.0 / np.bincount(region)[region])
    return np.concatenate(weights)
