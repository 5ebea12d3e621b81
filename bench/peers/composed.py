"""A whole model with the operators' work done by what torch offers: sampling of every window cell, einsum, softmax."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad import ops
from vsad.bench.operators import Problem
from vsad.bench.operators.model import sampled_bytes, step

from . import Peer, Run, fits, native
from .unfused import cell_grid, sample

USERS = ("vsad.models", "vsad.detection")  # packages that call operators


def homography_align(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    *,
    heads: int = 1,
    window: int = 3,
    bias: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    """As one would write it down, of one set of homographies for the whole batch."""
    H = homography.reshape(-1, *homography.shape[-4:])
    assert len(H) == 1
    given, (query, key, value) = query.dtype, (t.to(H.dtype) for t in (query, key, value))  # grid_sample takes one type
    grid, valid = cell_grid(H[0], query.shape[-2:], key.shape[-2:], window)
    q = query.unflatten(2, (heads, -1))
    logits = torch.einsum("bvgdhw,bvngdchw->bvngchw", q, sample(key, grid, neighbors, heads))
    logits = logits * ((query.shape[2] // heads) ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias.flatten(1)[:, :, None, None]
    filled = (neighbors >= 0).flatten()[:, None, None, None]
    logits = logits.masked_fill(~(valid & filled).unflatten(0, neighbors.shape).unsqueeze(2), float("-inf"))
    lse = logits.logsumexp((2, 4))  # (B, V, heads, H, W)
    alpha = (logits - lse[:, :, None, :, None]).exp().nan_to_num(0)
    out = torch.einsum("bvngchw,bvngdchw->bvgdhw", alpha, sample(value, grid, neighbors, heads)).flatten(2, 3)
    return (out.to(given), lse) if return_lse else out.to(given)


def homography_warp(input: Tensor, homography: Tensor) -> Tensor:
    H, W = input.shape[-2:]
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).to(input.dtype)
    X, Y, Z = (homography.to(input.dtype) @ pixels).unflatten(-1, (H, W)).unbind(1)
    grid = torch.stack([(2 * X / Z + 1) / W - 1, (2 * Y / Z + 1) / H - 1], -1)
    return F.grid_sample(input, grid, align_corners=False)


@contextmanager
def in_place_of_operators(*functions: Callable[..., Any]) -> Iterator[None]:
    """Inside the block our models call these functions in place of the operators that have their names."""
    modules = [module for name, module in sys.modules.items() if name.startswith(USERS)]
    with ExitStack() as stack:
        for function in functions:
            for module in modules:
                if vars(module).get(function.__name__) is getattr(ops, function.__name__):
                    stack.enter_context(mock.patch.object(module, function.__name__, function))
        yield


def einsums(problem: Problem) -> Run:
    native(problem)
    fits(sampled_bytes(problem.case), problem.case.device)
    run = step(problem)
    in_float32 = torch.autocast("cpu", enabled=False)  # in bfloat16 the sums over cells are not right enough
    functions = in_float32(homography_align), in_float32(homography_warp)

    def composed() -> Any:
        with in_place_of_operators(*functions):
            return run()

    return composed


PEERS = [Peer("unfused model", {"model": einsums})]
