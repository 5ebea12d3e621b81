"""Choosing few features that cover many: k-centre greedy."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import check_same, check_shapes
from ..common.registry import REFERENCE, Op, cpu_backend, cuda_backend, register, triton_backend

NAME = "greedy_coreset"


def greedy_coreset(
    features: Tensor, size: int, *, start: int | None = None, seed: int = 0, backend: str | None = None
) -> Tensor:
    """Pick features one by one, each the farthest from all picked before (k-centre greedy).

    ``pick[0] = start``, ``pick[i + 1] = argmax_m min_{j <= i} |f_m - f_pick[j]|`` over what is not yet picked; the
    lowest index wins a tie. The result covers the set within twice the best possible radius.

    Convention: squared distances are summed in float64 and then rounded to float32's 24 bits, so equal distances tie
    whatever order the channels are summed in, and every backend picks the same, but for sums that lie within
    float64's rounding of the middle between two 24-bit numbers: about one in 10^8. A row that is not finite covers
    nothing and counts as covered: it is picked when only duplicates of picks are left.

    Args:
        features: ``(M, C)``, floating point.
        size: how many to pick, 1 <= size <= M.
        start: index of the first pick; drawn from ``seed`` by default.
        seed: of that draw.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``; None takes the first that can.

    Returns:
        ``(size,)`` int64 indices in the order of picking, without repeats.

    Raises:
        ValueError: features are not a floating point matrix, or size or start is out of range.

    Example:
        >>> bank = features[vsad.ops.greedy_coreset(features, size=1000)]

    Source: Gonzalez 1985, Sener and Savarese (arXiv 1708.00489).
    """
    sizes = check_shapes(NAME, features=(features, "M C"))
    check_same(NAME, features=features)
    if not 1 <= size <= sizes["M"]:
        raise ValueError(f"{NAME}: size must lie in [1, M={sizes['M']}], got {size}")
    if start is not None and not 0 <= start < sizes["M"]:
        raise ValueError(f"{NAME}: start must lie in [0, M={sizes['M']}), got {start}")
    chosen = OP.choose(features, backend=backend, size=size)
    picks: Tensor = torch.ops.vsad.greedy_coreset_fwd(features, size, start, seed, chosen)
    return picks


def reference(features: Tensor, size: int, start: int) -> Tensor:
    """The definition."""
    features = features.detach().double()
    picks = torch.empty(size, dtype=torch.int64, device=features.device)
    nearest = torch.where(features.isfinite().all(1), float("inf"), 0.0).double()
    pick = torch.tensor(start, device=features.device)
    for i in range(size):
        picks[i] = pick
        nearest[pick] = -1  # never again, even where all distances are zero
        squared = (features - features[pick]).square().sum(1)
        nearest = torch.fmin(nearest, _to_24_bits(squared))  # NaN is no distance
        pick = nearest.argmax()
    return picks


def _to_24_bits(x: Tensor) -> Tensor:
    """Rounded like float32, over float64's range, so that the order of summation hardly ever decides between equals."""
    return ((x.view(torch.int64) + (1 << 28)) & -(1 << 29)).view(torch.float64)


torch.library.define(
    "vsad::greedy_coreset_fwd", "(Tensor features, int size, int? start, int seed, str backend) -> Tensor"
)


@torch.library.impl("vsad::greedy_coreset_fwd", "CompositeExplicitAutograd")
def _forward(features: Tensor, size: int, start: int | None, seed: int, backend: str) -> Tensor:
    if start is None:
        start = int(torch.randint(features.shape[0], (), generator=torch.Generator().manual_seed(seed)))
    if backend == REFERENCE:  # inside the schema: a compiler must see one call, not one call a pick
        return reference(features, size, start)
    result: Tensor = OP.backend(backend).load().forward(features, size, start)
    return result


@torch.library.register_fake("vsad::greedy_coreset_fwd")
def _(features: Tensor, size: int, start: int | None, seed: int, backend: str) -> Tensor:
    return features.new_empty((size,), dtype=torch.int64)


MOST_POINTS = 1 << 28  # whose index and distance fit 64 bits, and whose place in a block 24


def _gpu_why_not(features: Tensor, **options: object) -> str | None:
    return None if features.shape[0] < MOST_POINTS else f"takes fewer than 2^28 points, got {features.shape[0]}"


OP = register(
    Op(
        name=NAME,
        public=greedy_coreset,
        reference=reference,
        backends=(cpu_backend(NAME), cuda_backend(NAME, _gpu_why_not), triton_backend(NAME, _gpu_why_not)),
    )
)
