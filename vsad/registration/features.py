"""What registration sees of a sample: its gray pictures at working size, and their SIFT features."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.calibration.matching import Features, detect, match
from vsad.geometry import Size, transform_points
from vsad.registration.frame import Frame

# The long side at which features are found and pictures compared, in pixels: SIFT takes 60 ms at 256, 15 at 128.
WORK_SIDE = 128


class Sight(NamedTuple):
    """Gray pictures ``(V, h, w)`` uint8 at working size, and the features of each."""

    gray: Tensor
    features: list[Features]


def working_size(size: Size) -> Size:
    """Return the ``(height, width)`` at which images of ``size`` are registered."""
    scale = WORK_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def look(images: Tensor) -> Sight:
    """Find the features of a sample's ``images (V, 3, H, W)`` in [0, 1]."""
    gray = gray_pictures(images)
    return Sight(gray, [detect(picture) for picture in gray.numpy()])


def gray_pictures(images: Tensor) -> Tensor:
    """Return a sample's ``images (V, 3, H, W)`` as gray pictures at working size, ``(V, h, w)`` uint8."""
    height, width = working_size((images.shape[-2], images.shape[-1]))
    levels = (images.detach().cpu().float().clamp(0, 1) * 255).round().byte().movedim(1, -1).contiguous().numpy()
    interpolation = cv2.INTER_AREA if height < levels.shape[1] else cv2.INTER_CUBIC
    gray = [
        cv2.resize(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), (width, height), interpolation=interpolation) for i in levels
    ]
    return torch.from_numpy(np.stack(gray))


def select_moving(features: Features, still: Tensor) -> Features:
    """Leave out the features at ``still (h, w)`` pixels."""
    x, y = features.points.round().long().unbind(-1)
    keep = ~still[y.clamp(0, still.shape[0] - 1), x.clamp(0, still.shape[1] - 1)]
    return Features(features.points[keep], features.descriptors[keep])


def match_in_frame(
    canonical: list[Features], sample: list[Features], frame: Frame, *, mirrored: bool = False
) -> tuple[Tensor, Tensor]:
    """Match a sample's views with the canonical ones and carry all matches into the reference view.

    Returns:
        Canonical points and the sample's points in pixels of the reference view, ``(K, 2)`` float64 each.
    """
    ours, theirs = [], []
    for view, H in zip(frame.views, torch.linalg.inv(frame.H_view_from_reference)):
        seen = sample[view].mirrored() if mirrored else sample[view]
        points = match(canonical[view], seen)
        (target, here), (source, there) = (transform_points(H, p, return_mask=True) for p in points)
        ours.append(target[here & there])
        theirs.append(source[here & there])
    return torch.cat(ours), torch.cat(theirs)
