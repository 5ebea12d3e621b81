"""Launcher of the kernels in ``csrc/homography_warp/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ..common.layout import empty_like_layout, is_channels_last
from ..common.registry import Launch
from ..common.tensors import image, pointer
from ..common.threads import threads
from .arguments import NO_IMAGE, prepared, warp_arguments
from .call import WarpCall
from .gradients import checked_grad_out, reduce_parts

TAPS = {"nearest": 1, "bilinear": 4, "bicubic": 16}
LOCATE = 16  # multiply-adds that cost as much as locating the taps of a pixel
VECTOR = 16  # multiply-adds that count as one: a thread is woken for about 0.5 ms of work, far above its cost
GROUPS = 16  # items of the backward, so that all threads have some
GROUP_CHANNELS = 32  # fewest channels of an item with channels last: fewer cost more to locate than to add
SUM_BYTES = 8 << 20  # of float32 sums of an item, if it has no fewer channels than FEWEST_SUMMED
FEWEST_SUMMED = 8  # channels of an item without channels last: fewer cost more to locate than to add


def forward(call: WarpCall) -> tuple[Tensor, ...]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    return prepare(call)(*call[:2])


def prepare(call: WarpCall) -> Launch:
    """What launches calls like this one; the mask on request."""
    return prepared(
        call,
        lambda homography, out, mask: _arguments(call, homography, out, mask, passes=1),
        lambda arguments, input: _cpu.homography_warp_forward(arguments),
    )


def backward(
    call: WarpCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of input and homography; an empty tensor where ``needs`` says no.

    Bit-identical for any number of threads. Float16 and bfloat16 are added up in float32: per thread that takes 8 MB,
    or as much as up to 15 channels of an image need (63 with channels last), whichever is more.

    Raises:
        ValueError: input is not floating point. The public function asks for no such gradient; the schema can.
    """
    input, homography = call.input, call.homography.contiguous()
    grad_out = checked_grad_out(call, grads)
    B, C = input.shape[:2]
    groups = _groups(call)
    grad_input = empty_like_layout(input, C) if needs[0] else None
    parts = homography.new_zeros((B, groups, 3, 3), dtype=torch.float64) if needs[1] else None
    _cpu.homography_warp_backward(
        _arguments(call, homography, grad_out, None, passes=2 * sum(needs)),
        input=NO_IMAGE if grad_input is None else image(grad_input),
        homography=pointer(parts),
        groups=groups,
    )
    return (
        input.new_empty((0,)) if grad_input is None else grad_input,
        homography.new_empty((0,)) if parts is None else reduce_parts(call, parts),
    )


def _groups(call: WarpCall) -> int:
    """Into how many groups the channels of an image divide: the items of the backward.

    The number of threads has no part in it: the homography's gradient is summed group by group.
    """
    B, C, Hs, Ws = call.input.shape
    most = C // GROUP_CHANNELS if is_channels_last(call.input) else C
    groups = -(-GROUPS // max(B, 1))
    if call.input.element_size() == 2:
        groups = max(groups, min(-(-4 * C * Hs * Ws // SUM_BYTES), C // FEWEST_SUMMED))
    return max(1, min(groups, most))


def _arguments(
    call: WarpCall, homography: Tensor, out: Tensor, mask: Tensor | None, *, passes: int
) -> _cpu.WarpArguments:
    """``passes``: how often every tap of every channel is multiplied."""
    B, C = call.input.shape[:2]
    height, width = call.size
    operations = B * height * width * (LOCATE + passes * C * TAPS[call.mode])
    arguments = warp_arguments(call, homography, out, mask)
    return _cpu.WarpArguments(**arguments, threads=threads(operations // VECTOR))
