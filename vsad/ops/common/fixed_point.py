"""Fixed-point sums: integer addition gives the same bits in whatever order a GPU's atomic additions happen."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 61  # the largest sum stays below 2^61, so that rounding cannot carry it past int64


def fixed_point_scale(bound: Tensor) -> Tensor:
    """The largest power of two keeping sums of at most ``bound`` (float64) in int64; NaN where that is not finite."""
    exponent = BITS - bound.clamp(min=1e-250).log2().ceil()  # float64 holds the scale of no smaller bound
    return torch.where(bound.isfinite(), exponent.exp2(), float("nan"))


def largest(t: Tensor) -> Tensor:
    """The largest absolute value, in float64; 0 of an empty tensor."""
    if t.numel() == 0:
        return t.new_zeros((), dtype=torch.float64)
    low, high = t.aminmax()
    return torch.maximum(-low, high).double()


def from_fixed_point(total: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The sum in ``dtype``: an integer total divided by its scale, a floating point total (scale None) as it is."""
    return total.to(dtype) if scale is None else (total.double() / scale).to(dtype)
