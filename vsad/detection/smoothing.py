"""Smoothing of maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Smooth ``maps (*, h, w)`` with a Gaussian of deviation ``sigma`` pixels, reflecting at the borders."""
    radius = min(math.ceil(3 * sigma), min(maps.shape[-2:]) - 1)
    if sigma <= 0 or radius < 1:
        return maps
    t = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    line = torch.exp(-0.5 * (t / sigma) ** 2)
    line = line / line.sum()
    x = F.pad(maps.reshape(-1, 1, *maps.shape[-2:]), [radius] * 4, mode="reflect")
    x = F.conv2d(F.conv2d(x, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    return x.reshape(maps.shape)


def known_gaussian(maps: Tensor, known: Tensor, sigma: float) -> Tensor:
    """The same of the ``known (*, h, w)`` pixels alone, ``G(known * maps) / G(known)``; 0 elsewhere."""
    weight = known.to(maps)
    total, share = gaussian(torch.stack([torch.where(known, maps, 0), weight]), sigma)
    return torch.where(known, total / share.clamp(min=1e-3), 0)


def extend(maps: Tensor, known: Tensor) -> Tensor:
    """Continue ``maps (N, h, w)`` from the ``known`` pixels into the others; 0 in a map of which nothing is known.

    Pull and push: an unknown pixel is interpolated from means over blocks of 2, 4, 8, ... pixels, of those that are
    known, and the finest that know any count.
    """
    maps = torch.where(known, maps, 0)
    if max(maps.shape[-2:]) == 1:
        return maps
    total, share = (F.avg_pool2d(x[:, None], 2, ceil_mode=True)[:, 0] for x in (maps, known.to(maps)))
    coarse = extend(total / share.clamp(min=1e-6), share > 0)
    finer = F.interpolate(coarse[:, None], maps.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return torch.where(known, maps, finer)
