"""homography_align as MVDiffusion's correspondence-aware attention gathers its keys: offset by offset."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.bench.operators import Problem

from . import Peer, Run
from .unfused import cell_grid, prepare


def loop(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int, window: int
) -> Tensor:
    """One ``grid_sample`` for each slot and offset, the samples stacked, then attention; points lie in front."""
    B, V, C, H, W = query.shape
    N, cells = neighbors.shape[1], window * window
    grid, valid = cell_grid(homography, (H, W), (key.shape[3], key.shape[4]), window)
    grid, valid = grid.view(V, N, cells, H, W, 2), valid.view(V, N, cells, H, W)
    keys, values, masks = [], [], []
    for n in range(N):
        # channels last: grid_sample is up to five times as fast on it
        k, v = (t.movedim(2, -1)[:, neighbors[:, n]].flatten(0, 1).movedim(-1, 1) for t in (key, value))
        for cell in range(cells):
            at = grid[:, n, cell].expand(B, V, H, W, 2).flatten(0, 1)
            keys.append(F.grid_sample(k, at, padding_mode="border", align_corners=True))
            values.append(F.grid_sample(v, at, padding_mode="border", align_corners=True))
            masks.append(valid[:, n, cell])

    def split(t: Tensor) -> Tensor:
        return t.view(*t.shape[:2], heads, C // heads, H, W)

    k, v = (torch.stack(t, 1).unflatten(0, (B, V)).unflatten(3, (heads, -1)) for t in (keys, values))
    logits = torch.einsum("bvhdyx,bvchdyx->bvchyx", split(query), k) * (C // heads) ** -0.5
    mask = torch.stack(masks, 1)[None, :, :, None]  # (1, V, cells, 1, H, W)
    alpha = logits.masked_fill(~mask, float("-inf")).softmax(2).nan_to_num(0)
    return torch.einsum("bvchyx,bvchdyx->bvhdyx", alpha, v).flatten(2, 3)


def homography_align(problem: Problem) -> Run:
    return prepare(problem, loop)


PEERS = [
    Peer(
        "MVDiffusion loop",
        {"homography_align": homography_align},
        devices=("cpu", "cuda"),
        gflops={"homography_align": 0.5},
        gpu_gflops={"homography_align": 200.0},
    )
]
