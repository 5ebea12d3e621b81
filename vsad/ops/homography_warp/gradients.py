"""What the backward launchers of homography_warp share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.fixed_point import fixed_point_scale, largest
from ..common.layout import empty_like_layout, is_channels_last
from .call import NAME, WarpCall


def checked_grad_out(call: WarpCall, grads: tuple[Tensor | None, ...]) -> Tensor:
    """The gradient that comes in, with channels last where the input has them.

    Raises:
        ValueError: input is not floating point. The public function asks for no such gradient; the schema can.
    """
    input, (grad_out,) = call.input, grads
    assert grad_out is not None
    if not input.is_floating_point():
        raise ValueError(f"{NAME}: input must be floating point to have a gradient, got {input.dtype}")
    if is_channels_last(input) and grad_out.stride(1) != 1:
        return empty_like_layout(input, input.shape[1], size=call.size).copy_(grad_out)
    return grad_out


def empty_sum(call: WarpCall, fixed_point: bool = False) -> Tensor:
    """Zeros for the input's gradient to be added to, in the compute dtype or as 64-bit fixed-point numbers."""
    dtype = torch.int64 if fixed_point else call.homography.dtype
    return empty_like_layout(call.input, call.input.shape[1], dtype=dtype).zero_()


def fixed_point_scale_of(grad_out: Tensor) -> Tensor:
    """The scale of the input's gradient as fixed-point numbers.

    At most every pixel of ``grad_out (B, C, H, W)`` adds its gradient to one source pixel, with weights that together
    are below 16: bicubic weights exceed 1, and weights of clamped taps add up at the border.
    """
    return fixed_point_scale(largest(grad_out) * (16 * grad_out.shape[-2] * grad_out.shape[-1]))


def reduce_parts(call: WarpCall, parts: Tensor) -> Tensor:
    """The homography's gradient from partial sums ``(B, parts, 3, 3)``; one homography gathers the whole batch."""
    homography = call.homography
    parts = parts if homography.shape[0] == call.input.shape[0] else parts.flatten(0, 1)[None]
    return parts.sum(1, dtype=torch.float64).to(homography.dtype)
