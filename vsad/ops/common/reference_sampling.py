"""Projection and bilinear sampling in plain torch, for the references."""

from __future__ import annotations

import torch
from torch import Tensor


def coordinate_limit(dtype: torch.dtype, source: tuple[int, int]) -> float:
    """The largest coordinate that counts as finite: within it, products of coordinates with sizes cannot overflow."""
    return float(torch.finfo(dtype).max) / (8 * max(source))


def project(homography: Tensor, size: tuple[int, int], margin: float, source: tuple[int, int]) -> tuple[Tensor, ...]:
    """Where the pixels of a target image land in the source image.

    ``(X, Y, Z) = H (x, y, 1)``, ``sx = X / Z``, ``sy = Y / Z``. Pixels that are not in front (``Z > 0``), or that land
    further than ``margin`` outside the centers of the source's border pixels, are out of reach: their coordinates are
    replaced before the division, so that no NaN or infinity can enter a value or a gradient.

    Returns:
        ``sx, sy, within_reach``, each ``(*batch, H, W)``.
    """
    y, x = (torch.arange(n, dtype=homography.dtype, device=homography.device) for n in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    h = homography[..., None, None]
    X, Y, Z = (h[..., i, 0, :, :] * x + h[..., i, 1, :, :] * y + h[..., i, 2, :, :] for i in range(3))

    with torch.no_grad():
        sx, sy = X / Z, Y / Z
        within_reach = (Z > 0) & (sx >= -margin) & (sx <= source[1] - 1 + margin)
        within_reach &= (sy >= -margin) & (sy <= source[0] - 1 + margin)
    Z = torch.where(within_reach, Z, 1)
    sx = torch.where(within_reach, X, 0) / Z
    sy = torch.where(within_reach, Y, 0) / Z
    return sx, sy, within_reach


def bilinear(image: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sample ``image (*batch, C, H, W)`` at ``x, y (*batch, h, w)``; zero outside the centers of its border pixels.

    Returns:
        ``values (*batch, C, h, w)`` and ``inside (*batch, h, w)``.
    """
    height, width = image.shape[-2:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = torch.where(inside, x, 0), torch.where(inside, y, 0)
    x0, y0 = x.detach().floor(), y.detach().floor()
    fx, fy = (x - x0).to(image.dtype), (y - y0).to(image.dtype)

    flat = image.flatten(-2)
    total = torch.zeros((), dtype=image.dtype, device=image.device)
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            # a tap beyond the border has weight exactly zero here: reading its neighbor instead changes nothing
            column = (x0.long() + dx).clamp(max=width - 1)
            row = (y0.long() + dy).clamp(max=height - 1)
            index = (row * width + column).flatten(-2).unsqueeze(-2)
            index = index.expand(*flat.shape[:-1], -1)
            tap = flat.gather(-1, index).unflatten(-1, x.shape[-2:])
            total = total + tap * (wx * wy).unsqueeze(-3)
    return torch.where(inside.unsqueeze(-3), total, 0), inside
