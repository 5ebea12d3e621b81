"""Samples as the detector sees them: in canonical pose, and what of them says anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.checks import check_images
from vsad.geometry.checks import Size, divisible
from vsad.registration import Pose, Registration
from vsad.scratch import Scratch

# Of full scale, in every color: a pixel as bright as that shows the lamp, and nothing of the surface.
SATURATED = 0.94
# Around saturated pixels, in pixels of a view of 256: how far a lens spreads their light.
_SPREAD = 5 / 256


class Placement(NamedTuple):
    """What is known of a sample beside its pictures in canonical pose.

    Args:
        pose: how the sample lies; None where samples are not registered.
        inside: ``(V, H, W)`` bool, the pixels of the canonical pictures that the sample's own cover.
        dazzled: ``(V, H, W)`` bool, those that saturated light hides.
        light: ``(V, H, W)`` uint8, their brightness, the mean of their colors.
    """

    pose: Pose | None
    inside: Tensor
    dazzled: Tensor
    light: Tensor

    def to(self, device: torch.device) -> Placement:
        """The same with its masks on a device; the pose is only ever looked at on the CPU."""
        return self._replace(
            inside=self.inside.to(device), dazzled=self.dazzled.to(device), light=self.light.to(device)
        )

    @property
    def is_canonical(self) -> bool:
        """Whether the sample is the canonical one itself, which lies as it lies to the last digit."""
        if self.pose is None or self.pose.reason is not None:
            return False
        H = self.pose.H_sample_from_canonical
        return bool((H / H[:, 2:, 2:] - torch.eye(3, dtype=H.dtype)).abs().max() < 1e-9)

    @property
    def reason(self) -> str | None:
        """Why the sample was not registered; None where it was, or where none is."""
        return None if self.pose is None else self.pose.reason


class Placements(Sequence[Placement]):
    """The placements of many samples, whose masks are on disk."""

    def __init__(self) -> None:
        self._poses: list[Pose | None] = []
        self._masks = Scratch()

    def append(self, placement: Placement) -> None:
        """Add a sample's."""
        pose, *masks = placement
        self._poses.append(pose)
        self._masks.append(torch.stack([mask.to(torch.uint8) for mask in masks]))  # (3, V, H, W)

    def __len__(self) -> int:
        return len(self._poses)

    def __getitem__(self, index: Any) -> Any:
        inside, dazzled, light = self._masks[index]
        return Placement(self._poses[index], inside.view(torch.bool), dazzled.view(torch.bool), light)


def place(images: Tensor, registration: Registration | None, divisor: int = 1) -> tuple[Tensor, Placement]:
    """Bring a sample's ``images (V, 3, H, W)`` into canonical pose, and tell what they show there.

    The border is repeated at the bottom and at the right until ``divisor`` divides the sides.
    """
    check_images("place", images, ("V", 3, "H", "W"))
    dazzled = _dazzled(images)
    if registration is None:
        placement = Placement(None, torch.ones_like(dazzled), dazzled, _light(images))
        return _extended(images, placement, divisor)
    pose = registration.estimate(images)
    moved, inside = registration.to_canonical(torch.cat([images, dazzled[:, None].to(images)], dim=1), pose)
    dazzled = inside & (moved[:, 3] > 0.1)
    moved = moved[:, :3].clamp(0, 1)
    return _extended(moved, Placement(pose, inside, dazzled, _light(moved)), divisor)


def _extended(images: Tensor, placement: Placement, divisor: int) -> tuple[Tensor, Placement]:
    """Repeat the border of pictures, and of what is known of them, until ``divisor`` divides their sides.

    So the features at the border see what a convolution that repeats the border would show them.
    """
    have = (images.shape[-2], images.shape[-1])
    want = divisible(have, divisor)
    if want == have:
        return images, placement
    more = [0, want[1] - have[1], 0, want[0] - have[0]]
    images = F.pad(images, more, mode="replicate")
    pose, *masks = placement
    known = torch.stack([mask.to(torch.uint8) for mask in masks])
    inside, dazzled, light = F.pad(known, more, mode="replicate")
    return images, Placement(pose, inside.to(torch.bool), dazzled.to(torch.bool), light)


def cells(size: Size, extended: Size, maps: Sequence[int]) -> Size:
    """Rows and columns of maps of ``extended`` pictures that show any of the pictures' own ``size``."""
    rows, columns = (-(-own * count // whole) for own, whole, count in zip(size, extended, maps))
    return rows, columns


def place_all(
    samples: Iterable[Tensor],
    registration: Registration | None,
    placements: list[Placement] | Placements | None,
    divisor: int = 1,
) -> Iterator[Tensor]:
    """Yield every sample's pictures in canonical pose, and append its placement to ``placements``, if there are any."""
    for images in samples:
        moved, placement = place(images, registration, divisor)
        if placements is not None:
            placements.append(placement)
        yield moved


def _light(images: Tensor) -> Tensor:
    """Brightness ``(V, H, W)`` uint8 of images in [0, 1]."""
    return (images.mean(1) * 255).round().to(torch.uint8)


def _dazzled(images: Tensor) -> Tensor:
    """The pixels ``(V, H, W)`` bool that saturated light hides, and those around them."""
    radius = round(_SPREAD * max(images.shape[-2:]))
    return spread(images.amin(1) >= SATURATED, radius)


def spread(mask: Tensor, radius: int) -> Tensor:
    """Where ``mask (V, H, W)`` holds anywhere in the square of ``2 radius + 1`` pixels around.

    Each pass joins a mask with itself, moved by as much as it reaches already: many times as fast as a pooling.
    """
    mask, side = F.pad(mask, [radius] * 4), 2 * radius + 1
    for dim in (1, 2):
        reach = 1
        while reach < side:
            step = min(reach, side - reach)
            rest = mask.shape[dim] - step
            mask = mask.narrow(dim, 0, rest) | mask.narrow(dim, step, rest)
            reach += step
    return mask
