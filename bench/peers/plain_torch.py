"""What plain torch offers: grid_sample, cdist, matrix products in blocks, and a loop that keeps a running minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, fits, floats_only, run_of

BLOCK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # the memory of one block of distances


def homography_warp(problem: Problem, lay: Callable[[Tensor], Tensor]) -> Run:
    """``lay``: how the image lies in memory before it is sampled; converting is on the clock."""
    t, s = problem.tensors, problem.case.sizes
    H, W = s["H"], s["W"]
    device = t["homography"].device

    def function(input: Tensor) -> Tensor:
        y, x = torch.meshgrid(torch.arange(H, device=device), torch.arange(W, device=device), indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).float()
        X, Y, Z = (t["homography"] @ pixels).unflatten(-1, (H, W)).unbind(1)
        grid = torch.stack([(2 * X / Z + 1) / W - 1, (2 * Y / Z + 1) / H - 1], -1)
        out = F.grid_sample(lay(input.to(grid.dtype)), grid, s["mode"], s["padding"], align_corners=False)
        return (out if input.is_floating_point() else out.round()).to(input.dtype)

    return run_of(function, problem, "input")


def channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)  # on a CPU up to five times as fast


def grid_sample(problem: Problem) -> Run:
    """The better layout on a CPU; on a GPU the image as it lies."""
    return homography_warp(problem, channels_last if problem.case.device == "cpu" else lambda image: image)


def grid_sample_contiguous(problem: Problem) -> Run:
    return homography_warp(problem, lambda image: image.contiguous())


def cdist(problem: Problem) -> Run:
    """M x P distances, all at once on a CPU, then the k smallest; cosine is half the squared distance of unit rows."""
    s, device = problem.case.sizes, problem.case.device
    rows = s["M"] if device == "cpu" else max(1, BLOCK_BYTES[device] // (4 * s["P"]))
    fits(4.0 * min(rows, s["M"]) * s["P"] * 2, device)

    def nearest(f: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        cosine = s.get("metric") == "cosine"
        if cosine:
            f, p = F.normalize(f, dim=-1), F.normalize(p, dim=-1)
        parts = [smallest(torch.cdist(block, p), s["k"]) for block in f.split(rows)]
        distances, indices = (torch.cat(part) for part in zip(*parts))
        return (distances.square() / 2 if cosine else distances), indices

    return _with_gradients(problem, nearest)


def matmul(problem: Problem) -> Run:
    """``|f|^2 - 2 f.p + |p|^2`` in blocks of rows; cosine on rows of unit length."""
    s = problem.case.sizes
    rows = max(1, BLOCK_BYTES[problem.case.device] // (4 * s["P"]))

    def nearest(f: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        cosine = s.get("metric") == "cosine"
        if cosine:
            f, p = F.normalize(f, dim=-1), F.normalize(p, dim=-1)
        norms = p.square().sum(-1)
        best = []
        for block in f.split(rows):
            scores = torch.addmm(norms, block, p.mT, alpha=-2)
            best.append(smallest(scores, s["k"]))
        scores, indices = (torch.cat(part) for part in zip(*best))
        squared = (scores + f.square().sum(-1, keepdim=True)).clamp(min=0)
        return (squared / 2 if cosine else squared.sqrt()), indices

    return _with_gradients(problem, nearest)


def smallest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and where they are; a minimum where that is faster."""
    if k == 1 and scores.is_cuda:
        values, indices = scores.min(-1, keepdim=True)
        return values, indices
    values, indices = scores.topk(k, largest=False)
    return values, indices


def matmul_bf16(problem: Problem) -> Run:
    """All in bfloat16: rounding, the product with ``|p|^2`` added, the minimum. Close neighbors are confused."""
    s = problem.case.sizes
    if problem.cotangent is not None or s.get("metric", "euclidean") == "cosine":
        raise UnsupportedError("is written here for Euclidean distances forward")
    features, prototypes = problem.tensors["features"], problem.tensors["prototypes"]
    rows = max(1, BLOCK_BYTES[problem.case.device] // (2 * s["P"]))

    def run() -> tuple[Tensor, Tensor]:
        f, p = features.bfloat16(), prototypes.bfloat16()
        norms, p = prototypes.float().square().sum(-1).bfloat16(), -2 * p.mT
        parts = [smallest(torch.addmm(norms, block, p), s["k"]) for block in f.split(rows)]
        scores, indices = (torch.cat(part) for part in zip(*parts))
        squared = (scores.float() + features.float().square().sum(-1, keepdim=True)).clamp(min=0)
        return squared.sqrt().to(features.dtype), indices

    return run


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
    """One matrix-vector product per pick; norms are kept, so that a pick reads the points once."""
    points, size = problem.tensors["features"], problem.case.sizes["size"]

    def run() -> Tensor:
        norms = points.square().sum(1)
        picks = torch.zeros(size, dtype=torch.int64, device=points.device)
        nearest = torch.full_like(norms, float("inf"))
        for i in range(1, size):
            last = picks[i - 1 : i]  # a slice: a number would have to come from the GPU first
            row, norm = points.index_select(0, last)[0], norms.index_select(0, last)
            distances = torch.addmv(norms, points, row, alpha=-2) + norm
            torch.minimum(nearest, distances, out=nearest)
            nearest.index_fill_(0, last, -1)  # never again
            picks[i] = nearest.argmax()
        return picks

    return run


BOTH = ("cpu", "cuda")
PEERS = [
    Peer("grid_sample", {"homography_warp": grid_sample}, devices=BOTH),
    Peer("grid_sample, contiguous", {"homography_warp": grid_sample_contiguous}, devices=("cuda",)),
    Peer("cdist", {"prototype_distance": cdist}, devices=BOTH),
    Peer("matmul", {"prototype_distance": matmul}, devices=BOTH),
    Peer("matmul, bf16", {"prototype_distance": matmul_bf16}, devices=("cuda",), approximate=True),
    Peer("torch loop", {"greedy_coreset": greedy_coreset}, devices=BOTH),
]
