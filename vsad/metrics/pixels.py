"""Pixels of one sample after the other, of which no more is kept than the exact metrics need."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vsad.metrics.arrays import Array, as_numpy, checked_labels, ranked_values
from vsad.metrics.curve import Curve, until


@dataclass(frozen=True)
class PixelCurve:
    """The curve of all pixels, and beside it the mean overlap of the regions.

    Args:
        curve: of the pixels.
        overlap: ``(T,)`` mean over defect regions of the share of the region that is accepted.
    """

    curve: Curve
    overlap: np.ndarray

    def aupro(self, limit: float) -> float:
        """Integrate the overlap over the false-positive rate up to ``limit``, and divide by it."""
        x, y = until(*self.curve.path(self.overlap), limit)
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / (2 * limit))


class PixelScores:
    """What is kept of pixels for their exact metrics: 4 to 5 bytes of a normal float32 pixel, 12 of a defective one.

    Example:
        >>> pixels = PixelScores()
        >>> pixels.add(np.array([[[0.9, 0.1, 0.2, 0.3]]]), np.array([[[1, 0, 0, 0]]]))
        >>> pixels.curve().aupro(0.3)
        1.0
    """

    def __init__(self) -> None:
        self._negatives = _Values()
        self._positives: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []

    def add(self, maps: Array, masks: Array) -> None:
        """Take the pixels of further images.

        Args:
            maps: ``(..., H, W)`` scores; every leading index is an image of its own. float64 is ranked as such, all
                else as float32.
            masks: the same shape, boolean or 0/1, True = defect.

        Raises:
            ValueError: shapes differ, nothing was given, a score is NaN or a mask is not 0/1; nothing is taken then.
        """
        scores = checked_maps("PixelScores.add", maps)
        self.add_checked(scores, checked_masks("PixelScores.add", masks, scores))

    def add_checked(self, scores: np.ndarray, defects: np.ndarray) -> None:
        """Take what ``checked_maps`` and ``checked_masks`` returned."""
        size = scores.shape[-2:]
        for values, mask in zip(scores.reshape(-1, *size), defects.reshape(-1, *size)):
            self._negatives.append(values[~mask])
            if mask.any():
                self._positives.append(values[mask])
                self._weights.append(region_weights(mask))

    def curve(self) -> PixelCurve | None:
        """The curve of all pixels so far; None where only one class is present."""
        negatives = self._negatives.all()
        if not self._positives or not negatives.size:
            return None
        negatives.sort()
        positives = np.concatenate(self._positives)
        order = np.argsort(positives)[::-1]
        curve = Curve.of_sorted(positives[order], negatives)
        overlap = np.cumsum(np.concatenate(self._weights)[order])
        return PixelCurve(curve, (overlap / overlap[-1])[curve.tp - 1])  # the sum is the regions, up to rounding


class _Values:
    """Values in one piece of memory that grows by a quarter; where the system moves pages, without a copy."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)
        self._size = 0

    def append(self, values: np.ndarray) -> None:
        """Copy further values to the end; the first float64 makes all of them float64."""
        size = self._size + len(values)
        if self._memory.dtype != values.dtype:
            self._memory = self._memory.astype(np.promote_types(self._memory.dtype, values.dtype))
        if size > len(self._memory):
            self._memory.resize(max(size, len(self._memory) * 5 // 4), refcheck=False)
        self._memory[self._size : size] = values
        self._size = size

    def all(self) -> np.ndarray:
        """A view of all values, which holds until the next ``append``."""
        return self._memory[: self._size]


def checked_maps(op: str, maps: Array) -> np.ndarray:
    """Maps ``(..., H, W)`` as float32 or float64, none of them NaN."""
    scores = as_numpy(maps)
    if scores.ndim < 2:
        raise ValueError(f"{op}: maps must be (..., H, W), got {list(scores.shape)}; keep the image axes apart")
    if not scores.size:
        raise ValueError(f"{op}: maps must hold at least one pixel, got {list(scores.shape)}; check the test set")
    return ranked_values(op, scores, "maps")


def checked_masks(op: str, masks: Array, scores: np.ndarray) -> np.ndarray:
    """Masks as bool, of the shape of the maps that were checked."""
    defects = as_numpy(masks)
    if defects.shape != scores.shape:
        raise ValueError(
            f"{op}: masks must be {list(scores.shape)} like maps, got {list(defects.shape)}; "
            f"resize the masks to the maps"
        )
    return checked_labels(op, defects, "masks")


def region_weights(mask: np.ndarray) -> np.ndarray:
    """1 / area of its 8-connected region for each defect pixel of a mask ``(H, W)``, in row-major order."""
    _, region = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    region = region[mask]
    return 1.0 / np.bincount(region)[region]
