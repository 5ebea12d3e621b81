"""Depth from two photographs, by one call of ``homography_align`` with many homographies to one neighbor.

    pip install scikit-image
    python examples/plane_sweep.py depth.png

A plane sweep supposes that a pixel lies on each of many planes in turn. Each plane sends the left camera's pixels into
the right camera's image by a homography, and where the supposed depth is true, what is seen there is the same. So every
plane is a slot of neighbors, all of them the one right view; the attention over slots is the search for the depth. What
is averaged by it, the value, is the right pixel's own column: its difference to the left pixel's is the disparity.

The photographs are scikit-image's motorcycle (Middlebury 2014), whose disparity is known.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
import torch
from skimage.data import stereo_motorcycle
from torch import Tensor
from torch.nn import functional as F

from vsad.ops import homography_align

FOCAL, CENTER, SHIFT = 994.978, (311.193, 254.877), 31.086  # pixels; SHIFT: the right camera's center is further right
BASELINE = 0.193001  # meters
PLANES, SHARPNESS = 64, 60.0
RADII = {2: 1, 5: 2}  # radius of a patch in steps: pixels per step


def main(path: str | None = None) -> tuple[float, float]:
    """Find the depth; returns the shares of pixels within 2 pixels of the true disparity, of all and of the surest."""
    left, right, truth = stereo_motorcycle()
    query, key = describe(left), describe(right)  # (1, 1, C, H, W)
    column = torch.arange(left.shape[1], dtype=torch.float32).expand(1, 1, 1, *left.shape[:2])

    depths = 1 / torch.linspace(1 / 5.2, 1 / 2.0, PLANES, dtype=torch.float64)  # meters, evenly spaced in the image
    homography = right_from_left(depths)[None]  # (V, N, 3, 3)
    neighbors = torch.zeros(1, PLANES, dtype=torch.int64)  # every slot looks into the one right view
    matched, evidence = homography_align(
        query, key, column, homography, neighbors, window=1, scale=SHARPNESS, return_lse=True
    )
    disparity = (column - matched)[0, 0, 0]  # (H, W)

    known = torch.from_numpy(np.isfinite(truth))
    correct = (disparity - torch.from_numpy(truth)).abs()[known] < 2
    sure = evidence[0, 0, 0][known]
    share = correct.float().mean().item()
    surest = correct[sure >= sure.median()].float().mean().item()
    print(f"{share:.1%} of the pixels within 2 pixels of the true disparity, {surest:.1%} of the half that is surest")

    if path is not None:
        pictures = [left[..., ::-1], paint(disparity.numpy()), paint(truth)]
        cv2.imwrite(path, np.concatenate(pictures, axis=1))
        print(f"{path}: the left photograph, the disparity found and the true one")
    return share, surest


def right_from_left(depths: Tensor) -> Tensor:
    """``(N, 3, 3)``: K_right (I + t n^T / depth) K_left^-1, of planes that face the camera, n = (0, 0, 1)."""
    camera = torch.tensor([[FOCAL, 0, CENTER[0]], [0, FOCAL, CENTER[1]], [0, 0, 1]], dtype=torch.float64)
    right_camera = camera + torch.tensor([[0, 0, SHIFT], [0, 0, 0], [0, 0, 0]])
    moved = torch.eye(3, dtype=torch.float64).repeat(len(depths), 1, 1)
    moved[:, 0, 2] = -BASELINE / depths  # the right camera stands to the right, so what it sees moves to the left
    return right_camera @ moved @ camera.inverse()


def describe(photograph: np.ndarray) -> Tensor:
    """``(1, 1, C, H, W)``: the patches around every pixel, such that dot products are normalized cross-correlations."""
    gray = torch.from_numpy(photograph).float().mean(-1)[None, None] / 255
    patches = []
    for radius, step in RADII.items():
        padded = F.pad(gray, [radius * step] * 4, mode="reflect")
        patch = F.unfold(padded, 2 * radius + 1, dilation=step).unflatten(2, gray.shape[-2:])
        patch = patch - patch.mean(1, keepdim=True)
        patches.append(patch / (patch.norm(dim=1, keepdim=True) + 0.05))  # what is flat says little
    joined = torch.cat(patches, dim=1) / len(RADII) ** 0.5
    return joined.contiguous(memory_format=torch.channels_last)[:, None]


def paint(disparity: np.ndarray) -> np.ndarray:
    """Near is red, far is blue, unknown is black."""
    known = np.isfinite(disparity)
    gray = np.clip(np.where(known, disparity, 0) / 64 * 255, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(gray, cv2.COLORMAP_TURBO) * known[..., None]


if __name__ == "__main__":
    main(*sys.argv[1:])
