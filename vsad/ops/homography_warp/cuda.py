"""Launcher of ``csrc/cuda/homography_warp*.cu``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.fixed_point import fixed_point_scale, from_fixed_point
from ..common.layout import empty_like_layout
from ..common.reference_sampling import coordinate_limit
from ..common.stream import stream_of
from ..common.tensors import DTYPES, batch_stride, image, pointer
from .call import MODES, PADDINGS, WarpCall


def forward(call: WarpCall) -> tuple[Tensor, Tensor]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    input, homography, size, mode, padding = call
    out = empty_like_layout(input, input.shape[1], size=(size[0], size[1]))
    mask = input.new_empty((input.shape[0], *size), dtype=torch.bool)
    arguments, _keep = _describe(input, homography, out, mask, mode, padding)
    with stream_of(input) as stream:
        _cuda.homography_warp_forward(arguments, stream)
    return out, mask


def backward(
    call: WarpCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of input and homography; an empty tensor where ``needs`` says no.

    The input's gradient is added up atomically, in float32, so its last bits differ from run to run. Under
    ``torch.use_deterministic_algorithms`` it is added up in 64-bit whole numbers, which needs twice the memory and
    gives the same bits on every run; a gradient that is not finite then makes all of the input's NaN.

    Raises:
        ValueError: input is not floating point. The public function asks for no such gradient; the schema can.
    """
    input, homography, _, mode, padding = call
    (grad_out,) = grads
    assert grad_out is not None
    if not input.is_floating_point():
        raise ValueError(f"homography_warp: input must be floating point to have a gradient, got {input.dtype}")
    B, C = input.shape[:2]
    if input.stride(1) == 1 and C > 1 and grad_out.stride(1) != 1:
        H, W = grad_out.shape[2:]
        grad_out = empty_like_layout(input, C, size=(H, W)).copy_(grad_out)
    whole = needs[0] and torch.are_deterministic_algorithms_enabled()
    scale = fixed_point_scale(grad_out) if whole else None
    total = empty_like_layout(input, C, dtype=torch.int64 if whole else torch.float32).zero_() if needs[0] else None
    forward_call, _keep = _describe(input, homography, grad_out, None, mode, padding)
    gradients = _cuda.WarpGradients(
        forward_call, input=(0, 0, 0, 0, 0) if total is None else image(total), scale=pointer(scale)
    )
    parts = homography.new_empty((B, gradients.parts, 3, 3), dtype=torch.float64) if needs[1] else None
    gradients.homography = pointer(parts)
    with stream_of(input) as stream:
        _cuda.homography_warp_backward(gradients, stream)
    grad_input = input.new_empty((0,)) if total is None else from_fixed_point(total, scale, input.dtype)
    if parts is None:
        return grad_input, homography.new_empty((0,))
    parts = parts if homography.shape[0] == B else parts.flatten(0, 1)[None]  # one homography gathers the whole batch
    return grad_input, parts.sum(1).to(homography.dtype)


def _describe(
    input: Tensor, homography: Tensor, out: Tensor, mask: Tensor | None, mode: str, padding: str
) -> tuple[_cuda.WarpArguments, Tensor]:
    """The call in numbers, and the dense homography whose memory it points to."""
    (B, C, Hs, Ws), (H, W) = input.shape, out.shape[2:]
    homography = homography.contiguous()
    arguments = _cuda.WarpArguments(
        dtype=DTYPES[input.dtype],
        mode=MODES.index(mode),
        padding=PADDINGS.index(padding),
        anywhere=coordinate_limit(homography.dtype, (Hs, Ws)),
        sizes=(B, C, H, W, Hs, Ws),
        input=image(input),
        out=image(out),
        homography=homography.data_ptr(),
        homography_batch=batch_stride(homography),
        mask=pointer(mask),
    )
    return arguments, homography
