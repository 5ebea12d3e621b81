"""The arguments of homography_align, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NAME = "homography_align"


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
    if neighbors.numel():
        low, high = (int(t) for t in neighbors.aminmax())
        if low < -1 or high >= sources:
            wrong = low if low < -1 else high
            raise ValueError(f"{NAME}: neighbors must lie in [-1, S={sources}), got {wrong}; -1 marks an empty slot")
