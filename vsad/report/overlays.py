"""What a calibration achieves: two views of one sample laid over each other, before and after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vsad.geometry import RigPair, Size, scale_homography
from vsad.ops import homography_warp
from vsad.report.content import CalibrationPicture

# Brightness of the target where its partner sees nothing.
_ALONE = 0.35


def lay_over(
    images: Tensor, views: Sequence[str], pairs: Sequence[RigPair], size: Size | None = None
) -> list[CalibrationPicture]:
    """Lay the views of a sample over each other, once for every two views that a rig relates.

    Args:
        images: (V, 3, H, W) RGB, float in [0, 1], of one sample.
        views: names of the V views.
        pairs: of the rig.
        size: (height, width) of the images that the pairs' homographies relate; None: that of ``images``.

    Returns:
        For each two views the mean of both pictures as they are, and with the source brought into the target's place;
        there the target alone is dark where the source sees nothing.
    """
    shown = dict(zip(views, images.float(), strict=True))
    here = int(images.shape[2]), int(images.shape[3])
    pictures = []
    drawn: set[frozenset[str]] = set()
    for pair in pairs:
        both = frozenset((pair.target, pair.source))
        if both in drawn:
            continue
        drawn.add(both)
        target, source = shown[pair.target], shown[pair.source]
        H = torch.as_tensor(pair.homography, dtype=source.dtype, device=source.device)
        H = scale_homography(H, size or here, here)
        warped, seen = homography_warp(source[None], H[None], return_mask=True)
        after = torch.where(seen[0], (target + warped[0]) / 2, _ALONE * target)
        pictures.append(CalibrationPicture(pair.target, pair.source, (target + source) / 2, after))
    return pictures
