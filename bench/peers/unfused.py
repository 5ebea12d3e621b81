"""The operators as one would write them with what torch offers: every intermediate result is stored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def homography_align(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int, window: int
) -> Tensor:
    """Warp key and value once per slot and window cell with ``grid_sample``, then attend.

    ``query (B, V, C, H, W)``, ``key``, ``value (B, S, C, H, W)``, ``homography (V, N, 3, 3)``, ``neighbors (V, N)``
    without empty slots. Every point must lie in front.
    """
    B, V, C, H, W = query.shape
    N, cells = neighbors.shape[1], window * window
    grid, valid = _grid(homography, (H, W), tuple(key.shape[-2:]), window)  # (V N, R R H, W, 2), (V, N, R R, H, W)
    grid = grid.expand(B, *grid.shape).flatten(0, 1)

    def warp(source: Tensor) -> Tensor:
        gathered = source[:, neighbors].flatten(0, 2)  # (B V N, C, Hs, Ws)
        sampled = F.grid_sample(gathered, grid, padding_mode="border", align_corners=True)
        return sampled.view(B, V, N, heads, C // heads, cells, H, W)

    q = query.reshape(B, V, 1, heads, C // heads, 1, H, W)
    logits = (q * warp(key)).sum(4) * (C // heads) ** -0.5  # (B, V, N, heads, R R, H, W)
    logits = logits.masked_fill(~valid[:, :, None], float("-inf"))
    alpha = logits.transpose(2, 3).flatten(3, 4).softmax(3)  # (B, V, heads, N R R, H, W)
    alpha = alpha.nan_to_num(0)  # no valid cell
    alpha = alpha.unflatten(3, (N, cells)).transpose(2, 3).unsqueeze(4)
    return (alpha * warp(value)).sum((2, 5)).reshape(B, V, C, H, W)


def _grid(homography: Tensor, size: tuple[int, int], source: tuple[int, ...], window: int) -> tuple[Tensor, Tensor]:
    (height, width), radius = source, window // 2
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).to(homography.dtype)
    X, Y, Z = (homography @ pixels).unflatten(-1, size).unbind(2)  # each (V, N, H, W)
    b, a = torch.meshgrid(*[torch.arange(-radius, radius + 1)] * 2, indexing="xy")
    sx = (X / Z).unsqueeze(2) + b.reshape(-1, 1, 1)  # (V, N, R R, H, W)
    sy = (Y / Z).unsqueeze(2) + a.reshape(-1, 1, 1)
    valid = (sx >= 0) & (sx <= width - 1) & (sy >= 0) & (sy <= height - 1)
    grid = torch.stack([2 * sx / (width - 1) - 1, 2 * sy / (height - 1) - 1], -1)
    return grid.flatten(0, 1).flatten(1, 2), valid


def prototype_distance(features: Tensor, prototypes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All M x P distances, then the k smallest."""
    distances, indices = torch.cdist(features, prototypes).topk(k, largest=False)
    return distances, indices
