"""What registration sees of a sample: its gray pictures at working size, and their SIFT features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vsad.calibration.matching import Features, find_keypoints, gray_picture, match
from vsad.geometry import Size, transform_points
from vsad.registration.frame import Frame

# The long side at which features are found and pictures compared, in pixels: SIFT takes 60 ms at 256, 15 at 128.
WORK_SIDE = 128
# Features are twins within this squared distance of their unit descriptors: 0.24 to 0.96 of a checkerboard's, 0.07 of a
# brick wall's. Those within this many pixels are of one mark.
_TWINS, _SAME_PLACE, _MANY = 0.03, 4.0, 0.15


class Sight(NamedTuple):
    """Gray pictures ``(V, h, w)`` uint8 at working size, and the features of each.

    The points of features are ``(K, 3)`` here: x, y, and the direction in radians that the feature points to.
    """

    gray: Tensor
    features: list[Features]


def working_size(size: Size) -> Size:
    """Return the ``(height, width)`` at which images of ``size`` are registered."""
    scale = WORK_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def look(images: Tensor) -> Sight:
    """Find the features of a sample's ``images (V, 3, H, W)``, which the caller has checked to be in [0, 1]."""
    gray = gray_pictures(images)
    return Sight(gray, [_detect(picture) for picture in gray.numpy()])


def gray_pictures(images: Tensor) -> Tensor:
    """Return a sample's ``images (V, 3, H, W)`` as gray pictures at working size, ``(V, h, w)`` uint8."""
    size = working_size((images.shape[-2], images.shape[-1]))
    return torch.from_numpy(np.stack([gray_picture(image, size) for image in images]))


def select_moving(features: Features, still: Tensor) -> Features:
    """Leave out the features at ``still (h, w)`` pixels."""
    x, y, _ = features.points.round().long().unbind(-1)
    keep = ~still[y.clamp(0, still.shape[0] - 1), x.clamp(0, still.shape[1] - 1)]
    return Features(features.points[keep], features.descriptors[keep])


class Matches(NamedTuple):
    """Matches of all views of a frame, in pixels of its reference view.

    Args:
        target: ``(K, 2)`` float64, canonical points.
        source: ``(K, 2)`` float64, the sample's.
        turn: ``(K,)`` float64, by how much the sample's feature is turned, in radians.
    """

    target: Tensor
    source: Tensor
    turn: Tensor

    def chosen(self, chosen: Tensor) -> Matches:
        """Return those matches, ``chosen (K,)`` bool."""
        return Matches(self.target[chosen], self.source[chosen], self.turn[chosen])


def repeats(features: list[Features]) -> bool:
    """Tell whether many features have a twin elsewhere in their view, as on a checkerboard or a grid of holes."""
    twins = []
    for view in features:
        distance = 2 - 2 * view.descriptors @ view.descriptors.T
        distance[torch.cdist(view.points[:, :2], view.points[:, :2]) < _SAME_PLACE] = torch.inf
        twins.append(distance < _TWINS)
    total = sum(len(view) for view in twins)
    return sum(int(view.any(1).sum()) for view in twins) > _MANY * total


def match_in_frame(
    canonical: list[Features], sample: list[Features], frame: Frame, *, mirrored: bool = False
) -> Matches:
    """Match a sample's views with the canonical ones and carry all matches into the reference view."""
    found = []
    for view, H in zip(frame.views, torch.linalg.inv(frame.H_view_from_reference)):
        seen = sample[view].mirrored() if mirrored else sample[view]
        (target, before, here), (source, after, there) = (_carry(H, points) for points in match(canonical[view], seen))
        found.append(Matches(target, source, after - before).chosen(here & there))
    return Matches(*(torch.cat(parts) for parts in zip(*found)))


def _carry(H: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Map points with directions; give the points, the directions and which points are in front."""
    position, angle = points[:, :2], points[:, 2]
    ahead = position + 0.5 * torch.stack([angle.cos(), angle.sin()], -1)
    mapped, in_front = transform_points(H, position, return_mask=True)
    direction = transform_points(H, ahead) - mapped
    return mapped, torch.atan2(direction[:, 1], direction[:, 0]), in_front


def _detect(picture: np.ndarray) -> Features:
    """Find features as ``vsad.calibration`` does, and keep their directions."""
    keypoints, descriptors = find_keypoints(picture)
    points = [(*keypoint.pt, np.deg2rad(keypoint.angle)) for keypoint in keypoints]
    return Features(torch.tensor(points, dtype=torch.float64).reshape(-1, 3), descriptors)
