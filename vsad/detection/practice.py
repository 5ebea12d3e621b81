"""Practice defects: painted on normal samples, to learn which levels of features tell defects from normal change."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vsad.checks import check_images
from vsad.geometry import Rig
from vsad.ops import homography_warp
from vsad.scratch import Samples, Scratch

# In shares of the long side: radii of spots and patches, half the width and the length of lines.
_SPOT, _PATCH, _LINE_WIDTH, _LINE_LENGTH = (0.008, 0.04), (0.02, 0.06), (0.002, 0.006), (0.08, 0.25)
# Opacity of spots and lines.
_OPACITY = (0.3, 1.0)
# A spot or line is so much as bright as what it covers.
_GAINS = (0.2, 1.4)
# Deviation of the logarithm of each color's gain.
_TINT = 0.15


class Practice(NamedTuple):
    """Normal samples with painted defects, as a detector is fitted to them.

    Args:
        latents: those of the P painted samples, ``(P, V, c, h, w)``.
        samples: which normal sample each was.
        marks: ``(P, D, V, H, W)`` bool, where each of the D defects of a sample shows.
        maps: those of a frozen network, each ``(P, V, C, h, w)``.
    """

    latents: Samples
    samples: tuple[int, ...]
    marks: Samples
    maps: tuple[Tensor | Scratch, ...] = ()


class Painted(NamedTuple):
    """A sample with defects: ``images (V, 3, H, W)``, and ``marks (D, V, H, W)`` bool, where each of D shows."""

    images: Tensor
    marks: Tensor


def paint_defects(images: Tensor, rig: Rig, generator: Generator, count: int = 4) -> Painted:
    """Paint defects on a normal sample, each in one view and, through the rig, in all that see the place.

    Spots and lines of a random color that let something through, and patches of the product in the wrong place: no
    imitation of any product's real defects, which nobody knows in advance.

    Args:
        images: ``(V, 3, H, W)`` in [0, 1].
        rig: rig of the V views.
        generator: draws everything.
        count: D; the views take turns.

    Raises:
        TypeError, ValueError: the images are no pictures of the rig's views.
    """
    check_images("paint_defects", images, (len(rig.views), 3, "H", "W"))
    marks = []
    first = int(torch.randint(len(images), (), generator=generator))
    for index in range(count):
        view = (first + index) % len(images)
        paint = (_spot, _line, _patch)[int(torch.randint(3, (), generator=generator))]
        layer = paint(images[view], generator)  # (4, H, W): color and opacity
        layers = _seen_from_all(layer, view, rig)
        cover = layers[:, 3:]
        images = images * (1 - cover) + layers[:, :3] * cover
        marks.append(cover[:, 0] > 0.05)
    return Painted(images.clamp(0, 1), torch.stack(marks))


def _seen_from_all(layer: Tensor, view: int, rig: Rig) -> Tensor:
    """The layer ``(4, H, W)`` of one view as its neighbors see it, ``(V, 4, H, W)``; others see nothing of it."""
    size = (layer.shape[-2], layer.shape[-1])
    homography, neighbors = rig.to_operator(size, device=layer.device)
    layers = layer.new_zeros(len(rig.views), *layer.shape)
    layers[view] = layer
    for target, slot in (neighbors == view).nonzero().tolist():
        layers[target] = homography_warp(layer[None], homography[target, slot][None])[0]
    return layers


def _spot(image: Tensor, generator: Generator) -> Tensor:
    radii = [_uniform(*_SPOT, generator) for _ in range(2)]
    along, across = _frame(image, generator)
    return _colored(image, _uniform(*_OPACITY, generator) * _disc(along / radii[0], across / radii[1]), generator)


def _line(image: Tensor, generator: Generator) -> Tensor:
    """A bent line."""
    along, across = _frame(image, generator)
    length, width = _uniform(*_LINE_LENGTH, generator), _uniform(*_LINE_WIDTH, generator)
    bend, waves = _uniform(0.0, 0.15, generator), _uniform(0.5, 2.0, generator)
    off = across - bend * length * torch.sin(2 * math.pi * waves * along / length)
    cover = torch.exp(-0.5 * (off / width) ** 2) * (along.abs() < length / 2)
    return _colored(image, _uniform(*_OPACITY, generator) * cover, generator)


def _patch(image: Tensor, generator: Generator) -> Tensor:
    """A round patch of the same picture from another place."""
    radius = _uniform(*_PATCH, generator)
    along, across = _frame(image, generator)
    cover = _disc(along / radius, across / radius)
    shift = [round(_uniform(-0.25, 0.25, generator) * side) for side in image.shape[-2:]]
    return torch.cat([image.roll(shift, (-2, -1)), cover[None]])


def _disc(x: Tensor, y: Tensor) -> Tensor:
    """1 within the unit circle, 0 outside, with a soft edge."""
    return torch.sigmoid(8 * (1 - (x**2 + y**2).sqrt()))


def _frame(image: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Coordinates ``(H, W)`` along and across a random direction about a random point, in shares of the long side."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y = (y - _uniform(0.1, 0.9, generator) * height).to(image) / max(height, width)
    x = (x - _uniform(0.1, 0.9, generator) * width).to(image) / max(height, width)
    angle = _uniform(0, math.pi, generator)
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


def _colored(image: Tensor, cover: Tensor, generator: Generator) -> Tensor:
    """A layer that is darker or brighter than what it covers, and tinted."""
    gain = _GAINS[int(torch.randint(2, (), generator=generator))]
    tint = torch.exp(_TINT * torch.randn(3, generator=generator)).to(image)
    return torch.cat([(image * gain * tint[:, None, None]).clamp(0, 1), cover[None]])


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
