"""Launcher of the kernels in ``csrc/homography_warp/cuda``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.fixed_point import from_fixed_point
from ..common.registry import Launch
from ..common.stream import stream_of
from ..common.tensors import image, pointer
from .arguments import NO_IMAGE, prepared, warp_arguments
from .call import WarpCall
from .gradients import checked_grad_out, empty_sum, fixed_point_scale_of, reduce_parts


def forward(call: WarpCall) -> tuple[Tensor, ...]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    return prepare(call)(*call[:2])


def prepare(call: WarpCall) -> Launch:
    """What launches calls like this one; the mask on request."""

    def run(arguments: _cuda.WarpArguments, input: Tensor) -> None:
        with stream_of(input) as stream:
            _cuda.homography_warp_forward(arguments, stream)

    return prepared(call, lambda *tensors: _cuda.WarpArguments(**warp_arguments(call, *tensors)), run)


def backward(
    call: WarpCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of input and homography; an empty tensor where ``needs`` says no.

    The input's gradient is added up atomically, in float32, so its last bits differ from run to run. In a
    deterministic call it is added up in 64-bit fixed point, which needs twice the memory and gives the same bits on
    every run; a gradient that is not finite then makes all of the input's NaN.

    Raises:
        ValueError: input is not floating point. The public function asks for no such gradient; the schema can.
    """
    input, homography = call.input, call.homography.contiguous()
    grad_out = checked_grad_out(call, grads)
    fixed_point = needs[0] and call.deterministic
    scale = fixed_point_scale_of(grad_out) if fixed_point else None
    total = empty_sum(call, fixed_point) if needs[0] else None
    gradients = _cuda.WarpGradients(
        _cuda.WarpArguments(**warp_arguments(call, homography, grad_out, None)),
        input=NO_IMAGE if total is None else image(total),
        scale=pointer(scale),
    )
    parts = None
    if needs[1]:
        parts = homography.new_empty((input.shape[0], gradients.parts, 3, 3), dtype=torch.float64)
    gradients.homography = pointer(parts)
    with stream_of(input) as stream:
        _cuda.homography_warp_backward(gradients, stream)
    return (
        input.new_empty((0,)) if total is None else from_fixed_point(total, scale, input.dtype),
        homography.new_empty((0,)) if parts is None else reduce_parts(call, parts),
    )
