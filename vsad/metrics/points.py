"""Curves as few enough points to draw."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vsad.metrics.curve import Curve, until

# Steps along a curve that are looked at, each a 2000th of the picture's side.
_STEPS = 4000
# How far the drawn line may lie from the curve, in sides of the picture: a fifth of a pixel where the side has 400.
_TOLERANCE = 0.0005


@dataclass(frozen=True)
class CurvePoints:
    """A line to draw, over the false-positive rate: ``x`` and ``y`` are lists of one length, neither ever falling."""

    x: list[float]
    y: list[float]


def roc_points(curve: Curve, most: int = 200) -> CurvePoints:
    """Draw the recall over the false-positive rate, from (0, 0) to (1, 1), with at most ``most`` points."""
    return _points(curve, curve.tp / curve.positives, 1.0, most)


def pro_points(curve: Curve, overlap: np.ndarray, limit: float, most: int = 200) -> CurvePoints:
    """Draw the regions' mean overlap ``(T,)`` over the false-positive rate, from (0, 0) to ``x = limit``."""
    return _points(curve, overlap, limit, most)


def _points(curve: Curve, height: np.ndarray, limit: float, most: int) -> CurvePoints:
    """Thin a curve by Douglas and Peucker's method, in a picture of side 1 that shows it up to the limit."""
    # Rate and height both rise, and so does their sum: between two of its steps the curve has nowhere to go.
    along = curve.fp / (curve.negatives * limit) + height
    steps = np.minimum(np.linspace(0.0, 2.0, _STEPS + 1), along[-1])
    at = np.unique(np.searchsorted(along, steps))
    x, y = until(*curve.path(height, at), limit)
    line = np.stack([x / limit, y], axis=1).astype(np.float32)[:, None]
    tolerance = _TOLERANCE
    while len(thin := cv2.approxPolyDP(line, tolerance, closed=False)) > most:
        tolerance *= 2
    x, y = np.round(thin[:, 0].astype(float) * (limit, 1.0), 5).T
    return CurvePoints(x.tolist(), y.tolist())
