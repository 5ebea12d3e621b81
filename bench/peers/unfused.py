"""homography_align with what torch offers: every window cell is sampled at once and stored; and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.bench.operators import Problem

from . import Peer, Run, fits, run_of


def unfused(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int, window: int
) -> Tensor:
    """``grid_sample`` of key and value, products, masked softmax, sums; every point must lie in front.

    The einsums are written as a product and a sum, which took 0.5 to 0.8 of the time. Channels-last inputs are copied
    first: what ``grid_sample`` gains by that layout the sums lose, and backward took up to 2.5 times as long.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    B, V, C, H, W = query.shape
    N, cells, d = neighbors.shape[1], window * window, C // heads
    grid, valid = cell_grid(homography, (H, W), (key.shape[3], key.shape[4]), window)
    grid = grid.flatten(1, 2).expand(B, V * N, cells * H, W, 2).flatten(0, 1)  # (B V N, cells H, W, 2)

    def sample(source: Tensor) -> Tensor:
        gathered = source[:, neighbors].flatten(0, 2)  # (B V N, C, Hs, Ws)
        sampled = F.grid_sample(gathered, grid, padding_mode="border", align_corners=True)
        return sampled.view(B, V, N, heads, d, cells, H, W)

    q = query.reshape(B, V, 1, heads, d, 1, H, W)
    logits = (q * sample(key)).sum(4) * d**-0.5  # (B, V, N, heads, cells, H, W)
    logits = logits.masked_fill(~valid.view(V, N, 1, cells, H, W), float("-inf"))
    alpha = logits.transpose(2, 3).flatten(3, 4).softmax(3)  # (B, V, heads, N cells, H, W)
    alpha = alpha.nan_to_num(0)  # no valid cell
    alpha = alpha.unflatten(3, (N, cells)).transpose(2, 3).unsqueeze(4)
    return (alpha * sample(value)).sum((2, 5)).reshape(B, V, C, H, W)


def cell_grid(homography: Tensor, size: tuple[int, int], source: tuple[int, int], window: int) -> tuple[Tensor, Tensor]:
    """grid_sample's coordinates ``(V N, cells, H, W, 2)`` of all window cells, and which are inside the source."""
    (height, width), radius = source, window // 2
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).to(homography.dtype)
    X, Y, Z = (homography @ pixels).unflatten(-1, size).flatten(0, 1).unbind(1)  # each (V N, H, W)
    b, a = torch.meshgrid(*[torch.arange(-radius, radius + 1)] * 2, indexing="xy")
    sx = (X / Z).unsqueeze(1) + b.reshape(-1, 1, 1)  # (V N, cells, H, W)
    sy = (Y / Z).unsqueeze(1) + a.reshape(-1, 1, 1)
    valid = (sx >= 0) & (sx <= width - 1) & (sy >= 0) & (sy <= height - 1)
    return torch.stack([2 * sx / (width - 1) - 1, 2 * sy / (height - 1) - 1], -1), valid


def stored_bytes(problem: Problem) -> float:
    """Of the samples of key and value at every cell, and as much again for their gradients."""
    s = problem.case.sizes
    cells = s["B"] * s["V"] * s["N"] * s["R"] ** 2 * s["H"] * s["W"]
    return cells * s["C"] * problem.tensors["homography"].itemsize * (5.0 if problem.case.backward else 2.5)


def prepare(problem: Problem, function: Callable[..., Tensor]) -> Run:
    fits(stored_bytes(problem))
    t, s = problem.tensors, problem.case.sizes
    H = t["homography"]  # its precision is the coordinates', which grid_sample wants the features to have too

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = query.to(H.dtype), key.to(H.dtype), value.to(H.dtype)
        return function(q, k, v, H, t["neighbors"], s["heads"], s["R"]).to(query.dtype)

    return run_of(call, problem, "query", "key", "value")


def homography_align(problem: Problem) -> Run:
    return prepare(problem, unfused)


def compiled(problem: Problem) -> Run:
    torch._dynamo.reset()  # or it gives up after eight shapes
    return prepare(problem, torch.compile(unfused, dynamic=False))


PEERS = [
    Peer("unfused", {"homography_align": homography_align}),
    Peer("unfused, compiled", {"homography_align": compiled}, compiles=True),
]
