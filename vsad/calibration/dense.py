"""Sharpening a homography by the pictures themselves, where it helps pixels that had no say."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.calibration.matching import PLACES
from vsad.calibration.quality import covered_places
from vsad.geometry import corners_to_homography, homography_to_corners

# Samples that are compared: more take longer and say the same.
_SAMPLES = 4
# Brightness that varies over more pixels than this is light, not surface.
_LIGHT = 12.0
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 40, 1e-5)
_BLUR = 5
# The correlation of pixels that had no say must grow by so much.
_GAIN = 2e-4
# Fewer pixels than this fix nothing.
_FEWEST = 500


def refine_densely(
    H_source_from_target: Tensor, matched: Tensor, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Tensor | None:
    """Maximize the enhanced correlation coefficient of the pictures around the matches.

    Half of the pixels, the white cells of a checkerboard, fit the homography; those of the black cells judge it. Each
    sample has its own fit, near the identity in the target's frame, and the median of their corners counts.

    Args:
        H_source_from_target: ``(3, 3)`` float64.
        matched: ``(K, 2)``, the matches in the target: what lies far from all of them may be another surface.
        pairs: target and source picture of every sample, uint8 ``(H, W)``, of one size.

    Returns:
        ``(3, 3)`` float64, or None where the pixels that judge correlate no better.

    Source: Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation coefficient
        maximization", 2008.
    """
    height, width = pairs[0][0].shape
    surface, white = _cells(matched, (height, width))
    moved, before = [], []
    for target, source in pairs[:_SAMPLES]:
        flat, (warped, seen) = _without_light(target), _warp(source, H_source_from_target)
        mask = seen & surface
        if min((mask & white).sum(), (mask & ~white).sum()) < _FEWEST:
            continue
        before.append(_correlation(flat, warped, mask & ~white))
        try:
            _, step = cv2.findTransformECC(
                flat, warped, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, _CRITERIA,
                (mask & white).astype(np.uint8), _BLUR,
            )  # fmt: skip
        except cv2.error:  # it does not converge
            continue
        moved.append(homography_to_corners(torch.tensor(np.asarray(step), dtype=torch.float64), (height, width)))
    if not moved:
        return None
    corners = torch.stack(moved).quantile(0.5, dim=0)
    H: Tensor = H_source_from_target @ corners_to_homography(corners, (height, width))
    after = []
    for target, source in pairs[:_SAMPLES]:
        warped, seen = _warp(source, H)
        mask = seen & surface & ~white
        if mask.sum() >= _FEWEST:
            after.append(_correlation(_without_light(target), warped, mask))
    better = len(after) == len(before) and np.mean(after) > np.mean(before) + _GAIN
    return H if better else None


def _cells(matched: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in and beside cells that hold matches, and those of the white cells, ``(H, W)`` bool."""
    near = cv2.dilate(covered_places(matched, size).numpy().astype(np.uint8), np.ones((3, 3), np.uint8))
    rows, columns = np.indices((PLACES, PLACES))
    grids = near, ((rows + columns) % 2).astype(np.uint8)
    surface, white = (cv2.resize(grid, size[::-1], interpolation=cv2.INTER_NEAREST) > 0 for grid in grids)
    return surface, white


def _without_light(picture: np.ndarray) -> np.ndarray:
    levels = picture.astype(np.float32)
    return levels - cv2.GaussianBlur(levels, (0, 0), _LIGHT)


def _warp(source: np.ndarray, H: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The source without its light in the target's frame, and where it is seen there."""
    canvas = source.shape[::-1]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    # Light is told from surface after warping: both pictures must lose the same.
    warped = _without_light(
        cv2.warpPerspective(source, H.numpy(), canvas, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    )
    seen = cv2.warpPerspective(np.ones_like(source), H.numpy(), canvas, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return warped, cv2.erode(seen, np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(0,)) > 0


def _correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    a, b = a[mask] - a[mask].mean(), b[mask] - b[mask].mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))
