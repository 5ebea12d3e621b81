"""Sums in 64-bit whole numbers: the same bits in whatever order a GPU's atomics come."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 61  # of the largest sum


def scale_for(grad_out: Tensor) -> Tensor:
    """The power of two that fills whole numbers with the largest sum that can come about; NaN where there is none.

    At most every pixel of ``grad_out (*, H, W)`` adds its gradient to one pixel of the source, with weights that
    together are below 4 (bicubic weights exceed 1, those of the border add up).
    """
    if grad_out.numel() == 0:
        return grad_out.new_ones((), dtype=torch.float64)
    largest = grad_out.abs().amax().double() * (16 * grad_out.shape[-2] * grad_out.shape[-1])
    exponent = torch.where(largest > 0, BITS - largest.log2().ceil(), 0)
    return torch.where(largest.isfinite(), exponent.exp2(), float("nan"))


def restore(total: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What ``total`` means: floats as they are, whole numbers divided by their scale."""
    return total.to(dtype) if scale is None else (total.double() / scale).to(dtype)
