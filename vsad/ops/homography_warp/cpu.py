"""Launcher of ``csrc/cpu/homography_warp.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ..common.layout import empty_like_layout
from ..common.reference_sampling import coordinate_limit
from ..common.tensors import DTYPES, batch_stride, image
from ..common.threads import threads
from .call import MODES, PADDINGS, WarpCall

TAPS = {"nearest": 1, "bilinear": 4, "bicubic": 16}
LOCATE = 16  # multiply-adds' worth of finding where a pixel looks
VECTOR = 16  # multiply-adds at once, counted as one: a thread is woken for about 0.5 ms of work, far above the cost
GROUPS = 16  # pieces of the backward, for the threads
GROUP_CHANNELS = 32  # of a piece, at least: fewer cost more to locate than to add


def forward(call: WarpCall) -> tuple[Tensor, Tensor]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    input, homography, size, mode, padding = call
    out = empty_like_layout(input, input.shape[1], size=(size[0], size[1]))
    mask = input.new_empty((input.shape[0], *size), dtype=torch.bool)
    arguments, _keep = _describe(input, homography, out, mask, mode, padding, 1)
    _cpu.homography_warp_forward(arguments)
    return out, mask


def backward(
    call: WarpCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of input and homography; an empty tensor where ``needs`` says no.

    Bit-identical for any number of threads. Needs memory for a float32 copy of the half types' gradient.

    Raises:
        ValueError: input is not floating point. The public function asks for no such gradient; the schema can.
    """
    input, homography, _, mode, padding = call
    (grad_out,) = grads
    assert grad_out is not None
    if not input.is_floating_point():
        raise ValueError(f"homography_warp: input must be floating point to have a gradient, got {input.dtype}")
    B, C = input.shape[:2]
    channels_last = input.stride(1) == 1 and C > 1
    if channels_last and grad_out.stride(1) != 1:
        H, W = grad_out.shape[2:]
        grad_out = empty_like_layout(input, C, size=(H, W)).copy_(grad_out)
    groups = max(1, min(-(-GROUPS // max(B, 1)), C // GROUP_CHANNELS if channels_last else C))
    grad_input = empty_like_layout(input, C, dtype=homography.dtype).zero_() if needs[0] else None
    parts = homography.new_zeros((B, groups, 3, 3), dtype=torch.float64) if needs[1] else None
    arguments, _keep = _describe(input, homography, grad_out, None, mode, padding, 2 * sum(needs))
    _cpu.homography_warp_backward(
        arguments,
        input=(0, 0, 0, 0, 0) if grad_input is None else image(grad_input),
        homography=0 if parts is None else parts.data_ptr(),
        groups=groups,
    )
    if grad_input is None:
        grad_input = input.new_empty((0,))
    if parts is None:
        return grad_input.to(input.dtype), homography.new_empty((0,))
    parts = parts if homography.shape[0] == B else parts.flatten(0, 1)[None]  # one homography gathers the whole batch
    return grad_input.to(input.dtype), parts.sum(1).to(homography.dtype)


def _describe(
    input: Tensor, homography: Tensor, out: Tensor, mask: Tensor | None, mode: str, padding: str, passes: int
) -> tuple[_cpu.WarpArguments, Tensor]:
    """The call in numbers, and the dense homography whose memory it points to."""
    (B, C, Hs, Ws), (H, W) = input.shape, out.shape[2:]
    homography = homography.contiguous()
    arguments = _cpu.WarpArguments(
        dtype=DTYPES[input.dtype],
        mode=MODES.index(mode),
        padding=PADDINGS.index(padding),
        threads=threads(B * H * W * (LOCATE + passes * C * TAPS[mode]) // VECTOR),
        anywhere=coordinate_limit(homography.dtype, (Hs, Ws)),
        sizes=(B, C, H, W, Hs, Ws),
        input=image(input),
        out=image(out),
        homography=homography.data_ptr(),
        homography_batch=batch_stride(homography),
        mask=0 if mask is None else mask.data_ptr(),
    )
    return arguments, homography
