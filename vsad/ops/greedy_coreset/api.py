"""The public function greedy_coreset: argument checks and default values."""

from __future__ import annotations

from torch import Tensor

from ..common.checks import integer
from .call import NAME, CoresetCall, check
from .registration import run


def greedy_coreset(
    features: Tensor, size: int, *, start: int | None = None, seed: int = 0, backend: str | None = None
) -> Tensor:
    """Pick features one by one, each the farthest from all picked before (k-center greedy).

    ``pick[0] = start``, ``pick[i + 1] = argmax_m min_{j <= i} |f_m - f_pick[j]|`` over what is not yet picked; the
    lowest index wins a tie. The result covers the set within twice the best possible radius.

    Convention: squared distances are summed in float64 and then rounded to float32's 24 bits, so equal distances tie
    whatever order the channels are summed in, and every backend picks the same, but for sums that lie within
    float64's rounding of the middle between two 24-bit numbers: about one in 10^8. A row that is not finite covers
    nothing and counts as covered: it is picked when only duplicates of picks are left.

    Args:
        features: ``(M, C)``, floating point.
        size: number of features to pick, 1 <= size <= M.
        start: index of the first pick; drawn from ``seed`` by default.
        seed: seed of the random first pick; unused where ``start`` is given.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``; None takes the first backend in the table that
            accepts the call.

    Returns:
        ``(size,)`` int64 indices in the order of picking, without repeats.

    In torch:
        Autocast changes nothing, and nothing has a gradient. The same call gives the same picks on every run.
        ``torch.func.vmap`` calls the operator once for each element of its batch. On the CPU, Ctrl-C ends a call,
        usually within 200 ms; features whose channels do not lie side by side are copied.

    Raises:
        ValueError: features are not a floating point matrix, or size, start or seed is out of range.
        TypeError: features are not a strided tensor, or size, start or seed is not an integer.

    Example:
        >>> features = torch.randn(5000, 32)
        >>> bank = features[vsad.ops.greedy_coreset(features, size=100)]
        >>> bank.shape
        torch.Size([100, 32])

    Source: Gonzalez 1985, Sener and Savarese (arXiv 1708.00489).
    """
    call = CoresetCall(
        features,
        integer(NAME, "size", size),
        None if start is None else integer(NAME, "start", start),
        integer(NAME, "seed", seed),
    )
    check(call)
    (picks,) = run(call, backend)
    return picks
