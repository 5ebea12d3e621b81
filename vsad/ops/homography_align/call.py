"""The arguments of homography_align, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.checks import check_device, check_same, check_shapes, compute_dtype, integer

NAME = "homography_align"
MOST_CELLS = 255  # the largest side of a window: the kernels keep all cells of a window in scratch memory


class AlignCall(NamedTuple):
    """A checked call. ``B V S N C H W`` are sizes as in the public docstring, ``R`` is the window."""

    query: Tensor  # (B, V, C, H, W)
    key: Tensor  # (B, S, C, Hs, Ws), query's dtype
    value: Tensor  # (B, S, Cv, Hs, Ws), query's dtype
    homography: Tensor  # (B or 1, V, N, 3, 3), in the dtype that coordinates are computed in
    neighbors: Tensor  # (V, N) int64; -1 marks an empty slot
    bias: Tensor | None  # (heads, N, R, R), homography's dtype
    heads: int
    window: int
    scale: float
    deterministic: bool


def check(call: AlignCall) -> None:
    """Raises a ValueError or TypeError that names the argument which does not fit."""
    sizes = check_images(call.query, call.key, call.value, call.neighbors)
    check_window(call.window)
    check_heads(call.heads, sizes["C"], sizes["Cv"])
    compute, R = compute_dtype(call.query.dtype), call.window
    B, V, N = sizes["B"], sizes["V"], sizes["N"]
    expected = {"homography": ((1, V, N, 3, 3), (B, V, N, 3, 3)), "bias": ((call.heads, N, R, R),)}
    for name, shapes in expected.items():
        tensor: Tensor | None = getattr(call, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            raise ValueError(f"{NAME}: {name} must be {' or '.join(map(str, shapes))}, got {list(tensor.shape)}")
        if tensor.dtype != compute:
            raise ValueError(f"{NAME}: {name} must be {compute}, got {tensor.dtype}")
        check_device(NAME, **{"query": call.query, name: tensor})
    check_device(NAME, query=call.query, neighbors=call.neighbors)


def check_images(query: Tensor, key: Tensor, value: Tensor, neighbors: Tensor) -> dict[str, int]:
    """Sizes, dtypes and devices of the images and of the graph of views."""
    sizes = check_shapes(
        NAME,
        query=(query, "B V C H W"),
        key=(key, "B S C Hs Ws"),
        value=(value, "B S Cv Hs Ws"),
        neighbors=(neighbors, "V N"),
    )
    check_same(NAME, query=query, key=key, value=value)
    if neighbors.dtype != torch.int64:
        raise ValueError(f"{NAME}: neighbors must be int64, got {neighbors.dtype}; call .long()")
    if sizes["Hs"] == 0 or sizes["Ws"] == 0:
        raise ValueError(f"{NAME}: key must have at least one pixel, got {list(key.shape)}")
    return sizes


def check_window(window: object) -> int:
    side = integer(NAME, "window", window)
    if not (1 <= side <= MOST_CELLS and side % 2):
        nearest = min(max(side, 0) // 2 * 2 + 1, MOST_CELLS)
        raise ValueError(f"{NAME}: window must be odd and lie in [1, {MOST_CELLS}], got {side}; use {nearest}")
    return side


def check_heads(heads: object, C: int, Cv: int) -> int:
    count = integer(NAME, "heads", heads)
    if not 1 <= count <= max(C, Cv, 1) or C % count or Cv % count:
        raise ValueError(f"{NAME}: heads must divide C={C} and Cv={Cv}, got {count}; heads=1 always does")
    return count


def empty_sums(call: AlignCall) -> tuple[Tensor, Tensor]:
    """Uninitialized ``peak`` and ``log_sum``, each ``(B, V, heads, H, W)`` in the dtype that is computed in.

    ``peak`` is the greatest logit of a pixel's valid cells and ``log_sum = log(sum exp(logit - peak))``; -inf and 0
    where no cell is valid. They stay apart because a backward's weights are ``exp((logit - peak) - log_sum)``, and
    ``peak + log_sum`` loses the digits of ``log_sum`` where logits are large.
    """
    B, V, _, H, W = call.query.shape
    shape = (B, V, call.heads, H, W)
    return call.homography.new_empty(shape), call.homography.new_empty(shape)


def check_neighbors(neighbors: Tensor, sources: int) -> None:
    """Raises a ValueError where an index names no source view. Reads the values, so a GPU's stream would stall."""
    flat = neighbors.flatten().tolist()
    low, high = (min(flat), max(flat)) if flat else (0, -1)
    if low < -1 or high >= sources:
        wrong = low if low < -1 else high
        raise ValueError(f"{NAME}: neighbors must lie in [-1, S={sources}), got {wrong}; -1 marks an empty slot")
