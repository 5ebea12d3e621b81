"""Masks as label tools write them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vsad.data.decode import PIXEL_LIMIT, Raster, decode

_JPEG_LEVELS = 32  # half of the largest is then above what JPEG adds around edges


def read_mask(path: Path | str, *, pixel_limit: int = PIXEL_LIMIT) -> np.ndarray:
    """Read a mask as (H, W) float32 in [0, 1], 1 = defect.

    What is not black is defect: any color, class number or shade, in palettes and in 8, 16 or 32 bits alike. Two
    exceptions. Shades of an antialiased edge stay shades, as parts of the largest value, so that the defect is where
    they reach 0.5: values are such shades in a JPEG, or where most pixels that are neither black nor of the largest
    value lie between a darker and a lighter neighbor, as class numbers do not. A mask that shows nothing but black and
    is transparent in places was drawn in its alpha channel, which is the mask then.

    Convention: a mask whose defect is black on white cannot be told from one whose defect covers nearly all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no image, or only part of one; or its values do not say which is the ground.
    """
    raster = decode(Path(path), pixel_limit)
    levels = _levels(raster)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high < np.inf):  # NaN is not >= 0
        raise ValueError(
            f"read_mask: {path} must hold labels of at least 0, got {low:.4g} to {high:.4g}; export it again"
        )
    if high == 0:
        return levels
    if raster.is_jpeg and high < _JPEG_LEVELS:
        raise ValueError(
            f"read_mask: {path} must hold black and white where it is a JPEG, which rounds class numbers away, got "
            f"values up to {high:.0f}; export it as PNG"
        )
    if raster.is_jpeg or _are_shades(levels, high):
        return levels / high
    if 0 < low < high:
        raise ValueError(
            f"read_mask: {path} must be 0 where there is no defect, got labels from {low:.4g} to {high:.4g}; "
            "export it with 0 for the ground"
        )
    return (levels > 0).astype(np.float32)


def _levels(raster: Raster) -> np.ndarray:
    """``(H, W)`` float32: the largest channel, over black."""
    levels = raster.color.max(2).astype(np.float32)
    if raster.alpha is None or raster.alpha.min() == raster.alpha.max() > 0:
        return levels
    opacity = raster.alpha[..., 0].astype(np.float32) / raster.alpha.max(initial=1)
    shown = levels * opacity
    return shown if shown.any() else opacity


def _are_shades(levels: np.ndarray, high: float) -> bool:
    between = (levels > 0) & (levels < high)
    if not between.any():
        return False
    around = np.ones((3, 3), np.uint8)
    edge = between & (cv2.erode(levels, around) < levels) & (cv2.dilate(levels, around) > levels)
    return bool(2 * edge.sum() > between.sum())
