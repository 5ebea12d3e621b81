"""Fixed-point sums: integer addition gives the same bits in whatever order a GPU's atomic additions happen."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 61  # the largest sum stays below 2^61, so that rounding cannot carry it past int64


def fixed_point_scale(grad_out: Tensor) -> Tensor:
    """The largest power-of-two scale whose fixed-point sum cannot overflow int64; NaN where gradients are not finite.

    At most every pixel of ``grad_out (*, H, W)`` adds its gradient to one source pixel, with weights that together
    are below 4: bicubic weights exceed 1, and weights of clamped taps add up at the border.
    """
    if grad_out.numel() == 0:
        return grad_out.new_ones((), dtype=torch.float64)
    largest = grad_out.abs().amax().double() * (16 * grad_out.shape[-2] * grad_out.shape[-1])
    exponent = torch.where(largest > 0, BITS - largest.log2().ceil(), 0)
    return torch.where(largest.isfinite(), exponent.exp2(), float("nan"))


def from_fixed_point(total: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The sum in ``dtype``: an integer total divided by its scale, a floating point total (scale None) as it is."""
    return total.to(dtype) if scale is None else (total.double() / scale).to(dtype)
