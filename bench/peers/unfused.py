"""homography_align with what torch offers: every window cell is sampled at once and stored; and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.bench.operators import Problem

from . import Peer, Run, fits, run_of


def products(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int, window: int
) -> Tensor:
    """The sums as products and ``sum``: 0.5 to 0.8 of the einsums' time.

    Channels-last inputs are copied first: what ``grid_sample`` gains by that layout the sums lose, and backward took up
    to 2.5 times as long.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    q = query.mul((query.shape[2] // heads) ** -0.5).unflatten(2, (1, heads, -1, 1))  # (B, V, 1, heads, d, 1, H, W)
    grid, valid = cell_grid(homography, query.shape[-2:], key.shape[-2:], window)
    logits = (q * sample(key, grid, neighbors, heads)).sum(4)  # (B, V, N, heads, cells, H, W)
    alpha = masked_softmax(logits, valid).unsqueeze(4)
    return (alpha * sample(value, grid, neighbors, heads)).sum((2, 5)).flatten(2, 3)


def einsums(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int, window: int
) -> Tensor:
    """As one would write it down, on the inputs as they lie."""
    grid, valid = cell_grid(homography, query.shape[-2:], key.shape[-2:], window)
    q = query.mul((query.shape[2] // heads) ** -0.5).unflatten(2, (heads, -1))
    logits = torch.einsum("bvgdhw,bvngdchw->bvngchw", q, sample(key, grid, neighbors, heads))
    alpha = masked_softmax(logits, valid)
    return torch.einsum("bvngchw,bvngdchw->bvgdhw", alpha, sample(value, grid, neighbors, heads)).flatten(2, 3)


def sample(source: Tensor, grid: Tensor, neighbors: Tensor, heads: int) -> Tensor:
    """``source`` at all window cells, ``(B, V, N, heads, d, cells, H, W)``."""
    B, C = source.shape[0], source.shape[2]
    (V, N), (cells, H, W) = neighbors.shape, grid.shape[1:4]
    grid = grid.flatten(1, 2).expand(B, V * N, cells * H, W, 2).flatten(0, 1)  # (B V N, cells H, W, 2)
    gathered = source[:, neighbors].flatten(0, 2)  # (B V N, C, Hs, Ws)
    sampled = F.grid_sample(gathered, grid, padding_mode="border", align_corners=True)
    return sampled.view(B, V, N, heads, C // heads, cells, H, W)


def masked_softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Over slots and cells, of logits ``(B, V, N, heads, cells, H, W)``."""
    N, cells = logits.shape[2], logits.shape[4]
    logits = logits.masked_fill(~valid.unflatten(0, (-1, N)).unsqueeze(2), float("-inf"))
    alpha = logits.transpose(2, 3).flatten(3, 4).softmax(3)  # (B, V, heads, N cells, H, W)
    return alpha.nan_to_num(0).unflatten(3, (N, cells)).transpose(2, 3)  # NaN: no valid cell


def cell_grid(homography: Tensor, size: Sequence[int], source: Sequence[int], window: int) -> tuple[Tensor, Tensor]:
    """grid_sample's coordinates ``(V N, cells, H, W, 2)`` of all window cells, and which are inside the source."""
    (height, width), radius = source, window // 2

    def steps(start: int, end: int) -> Tensor:
        return torch.arange(start, end, device=homography.device)

    y, x = torch.meshgrid(steps(0, size[0]), steps(0, size[1]), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).to(homography.dtype)
    X, Y, Z = (homography @ pixels).unflatten(-1, size).flatten(0, 1).unbind(1)  # each (V N, H, W)
    b, a = torch.meshgrid(*[steps(-radius, radius + 1)] * 2, indexing="xy")
    sx = (X / Z).unsqueeze(1) + b.reshape(-1, 1, 1)  # (V N, cells, H, W)
    sy = (Y / Z).unsqueeze(1) + a.reshape(-1, 1, 1)
    valid = (sx >= 0) & (sx <= width - 1) & (sy >= 0) & (sy <= height - 1)
    return torch.stack([2 * sx / (width - 1) - 1, 2 * sy / (height - 1) - 1], -1), valid


def stored_bytes(problem: Problem) -> float:
    """Bytes of the samples of key and value at every cell, and the same again for their gradients."""
    s = problem.case.sizes
    cells = s["B"] * s["V"] * s["N"] * s["R"] ** 2 * s["H"] * s["W"]
    return cells * s["C"] * problem.tensors["homography"].itemsize * (5.0 if problem.case.backward else 2.5)


def prepare(problem: Problem, function: Callable[..., Tensor]) -> Run:
    fits(stored_bytes(problem), problem.case.device)
    t, s = problem.tensors, problem.case.sizes
    H = t["homography"]  # its precision is the coordinates', which grid_sample wants the features to have too

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = query.to(H.dtype), key.to(H.dtype), value.to(H.dtype)
        return function(q, k, v, H, t["neighbors"], s["heads"], s["R"]).to(query.dtype)

    return run_of(call, problem, "query", "key", "value")


def unfused(problem: Problem) -> Run:
    return prepare(problem, products)


def unfused_einsum(problem: Problem) -> Run:
    return prepare(problem, einsums)


def compiled(problem: Problem) -> Run:
    torch._dynamo.reset()  # or it gives up after eight shapes
    return prepare(problem, torch.compile(products, dynamic=False))


BOTH = ("cpu", "cuda")
PEERS = [
    Peer("unfused", {"homography_align": unfused}, devices=BOTH),
    Peer("unfused, einsum", {"homography_align": unfused_einsum}, devices=BOTH, of_targets=True),
    Peer("unfused, compiled", {"homography_align": compiled}, devices=BOTH, compiles=True),
]
