"""What plain torch offers: grid_sample, cdist, matrix products in blocks, and a loop that keeps a running minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.bench.operators import Problem

from . import Peer, Run, fits, floats_only, run_of

BLOCK_BYTES = 64 << 20  # of one block of distances


def homography_warp(problem: Problem) -> Run:
    t, s = problem.tensors, problem.case.sizes
    H, W = s["H"], s["W"]

    def function(input: Tensor) -> Tensor:
        y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).float()
        X, Y, Z = (t["homography"] @ pixels).unflatten(-1, (H, W)).unbind(1)
        grid = torch.stack([(2 * X / Z + 1) / W - 1, (2 * Y / Z + 1) / H - 1], -1)
        image = input.to(grid.dtype).contiguous(memory_format=torch.channels_last)  # up to five times as fast
        out = F.grid_sample(image, grid, s["mode"], s["padding"], align_corners=False)
        return (out if input.is_floating_point() else out.round()).to(input.dtype)

    return run_of(function, problem, "input")


def cdist(problem: Problem) -> Run:
    """All M x P distances, then the k smallest; cosine is half the squared distance of rows of unit length."""
    s = problem.case.sizes
    fits(4.0 * s["M"] * s["P"] * 2)

    def nearest(f: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        cosine = s.get("metric") == "cosine"
        if cosine:
            f, p = F.normalize(f, dim=-1), F.normalize(p, dim=-1)
        distances, indices = torch.cdist(f, p).topk(s["k"], largest=False)
        return (distances.square() / 2 if cosine else distances), indices

    return _with_gradients(problem, nearest)


def matmul(problem: Problem) -> Run:
    """``|f|^2 - 2 f.p + |p|^2`` in blocks of rows; cosine on rows of unit length."""
    s = problem.case.sizes
    rows = max(1, BLOCK_BYTES // (4 * s["P"]))

    def nearest(f: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        cosine = s.get("metric") == "cosine"
        if cosine:
            f, p = F.normalize(f, dim=-1), F.normalize(p, dim=-1)
        norms = p.square().sum(-1)
        best = []
        for block in f.split(rows):
            scores = torch.addmm(norms, block, p.mT, alpha=-2)
            best.append(scores.topk(s["k"], largest=False))
        scores, indices = (torch.cat(part) for part in zip(*best))
        squared = (scores + f.square().sum(-1, keepdim=True)).clamp(min=0)
        return (squared / 2 if cosine else squared.sqrt()), indices

    return _with_gradients(problem, nearest)


def _with_gradients(problem: Problem, nearest: Callable[..., tuple[Tensor, Tensor]]) -> Run:
    floats_only(problem)
    tensors = problem.tensors["features"], problem.tensors["prototypes"]

    def forward() -> Any:
        with torch.no_grad():
            return nearest(*tensors)

    def both() -> Any:
        leaves = [t.detach().requires_grad_() for t in tensors]
        distances, indices = nearest(*leaves)
        return distances.detach(), indices, *torch.autograd.grad(distances, leaves, problem.cotangent)

    return forward if problem.cotangent is None else both


def greedy_coreset(problem: Problem) -> Run:
    """One matrix-vector product a pick; norms are kept, so that a pick reads the points once."""
    points, size = problem.tensors["features"], problem.case.sizes["size"]

    def run() -> Tensor:
        norms = points.square().sum(1)
        picks = torch.zeros(size, dtype=torch.int64)
        nearest = torch.full_like(norms, float("inf"))
        for i in range(1, size):
            last = picks[i - 1]
            distances = torch.addmv(norms, points, points[last], alpha=-2) + norms[last]
            torch.minimum(nearest, distances, out=nearest)
            nearest[last] = -1  # never again
            picks[i] = nearest.argmax()
        return picks

    return run


PEERS = [
    Peer("grid_sample", {"homography_warp": homography_warp}),
    Peer("cdist", {"prototype_distance": cdist}),
    Peer("matmul", {"prototype_distance": matmul}),
    Peer("torch loop", {"greedy_coreset": greedy_coreset}),
]
