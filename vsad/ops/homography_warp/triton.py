"""Launcher of the Triton kernels in ``kernels/homography_warp``."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from vsad.kernels.homography_warp import launch_shapes as shapes
from vsad.kernels.homography_warp.backward import backward_kernel
from vsad.kernels.homography_warp.forward import forward_kernel

from ..common.fixed_point import from_fixed_point
from ..common.layout import empty_like_layout
from ..common.reference_sampling import coordinate_limit
from ..common.tensors import batch_stride
from .call import WarpCall
from .gradients import checked_grad_out, empty_sum, fixed_point_scale_of, reduce_parts

Constants = dict[str, Any]


def forward(call: WarpCall) -> tuple[Tensor, Tensor]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    input, homography, size, mode = call.input, call.homography, call.size, call.mode
    B, C = input.shape[:2]
    out = empty_like_layout(input, C, size=size)
    mask = input.new_empty((B, *size), dtype=torch.bool)
    constants = _constants(call, shapes.FORWARD, shapes.PACK_BYTES // input.element_size(), out)
    tiles, shares = _grid(out, constants)
    if B * tiles:
        homography = homography.contiguous()
        with torch.cuda.device_of(input):
            forward_kernel[(B * tiles, shares)](
                input, homography, out, mask.view(torch.uint8),
                *_strides(input, constants), batch_stride(homography), *_strides(out, constants),
                *_sizes(call, constants), **constants, **shapes.options(mode, shapes.FORWARD),
            )  # fmt: skip
    return out, mask


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
    input, homography, mode = call.input, call.homography, call.mode
    grad_out = checked_grad_out(call, grads)
    fixed_point = needs[0] and call.deterministic
    scale = fixed_point_scale_of(grad_out) if fixed_point else None
    total = empty_sum(call, fixed_point) if needs[0] else None
    pack = shapes.backward_pack(mode, fixed_point, _capability(input.device))
    constants = _constants(call, shapes.BACKWARD, pack, grad_out, input if total is None else total)
    tiles, shares = _grid(grad_out, constants)
    B = input.shape[0]
    per_program = max(1, min(shapes.TILES_PER_PROGRAM, B * tiles * shares // shapes.PROGRAMS))
    programs = triton.cdiv(tiles, per_program) * shares  # the programs of one image
    parts = None
    # The derivative of the mode "nearest" with respect to the homography is zero.
    if needs[1] and mode != "nearest":
        parts = homography.new_empty((B, programs, 3, 3))
    if B * programs and (total is not None or parts is not None):
        _launch_backward(call, grad_out, scale, total, parts, constants, (programs // shares, shares, per_program))
    grad_input = input.new_empty((0,)) if total is None else from_fixed_point(total, scale, input.dtype)
    if parts is None:
        return grad_input, homography.new_zeros(homography.shape if needs[1] else (0,))
    return grad_input, reduce_parts(call, parts)


def _launch_backward(
    call: WarpCall,
    grad_out: Tensor,
    scale: Tensor | None,
    total: Tensor | None,
    parts: Tensor | None,
    constants: Constants,
    grid: tuple[int, int, int],
) -> None:
    """``grid``: programs per image and share of the channels, shares, and tiles per program."""
    input, homography = call.input, call.homography.contiguous()
    programs, shares, per_program = grid
    with torch.cuda.device_of(input):
        backward_kernel[(input.shape[0] * programs, shares)](
            grad_out, input, homography, scale, total, parts,
            *_strides(grad_out, constants), *_strides(input, constants), batch_stride(homography),
            *_strides(input if total is None else total, constants), *_sizes(call, constants), per_program,
            **constants, **shapes.options(call.mode, shapes.BACKWARD),
        )  # fmt: skip


def _constants(call: WarpCall, table: shapes.Table, pack: int, *images: Tensor) -> Constants:
    """What a kernel is compiled for, when it takes the input and other images, in packs where they are aligned."""
    images = (call.input, *images)
    C = call.input.shape[1]
    last = C > 1 and all(image.stride(1) == 1 for image in images)
    aligned = last and C % pack == 0 and all(_is_aligned(image, pack) for image in images)
    return {"PADDING": call.padding, **shapes.launch_shape(call.mode, table, last, pack if aligned else 1, C)}


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _is_aligned(image: Tensor, pack: int) -> bool:
    divisible = all(image.stride(i) % pack == 0 for i in (0, 2, 3))
    return divisible and image.data_ptr() % (pack * image.element_size()) == 0


def _grid(out: Tensor, constants: Constants) -> tuple[int, int]:
    """How many tiles a target image has, and into how many shares, one per program, the channels of a tile divide."""
    B, C, H, W = out.shape
    tiles = triton.cdiv(W, constants["TILE_W"]) * triton.cdiv(H, constants["TILE_H"])
    shares = 1
    while shares * constants["TILE_C"] < C and B * tiles * shares < shapes.PROGRAMS:
        shares *= 2
    return tiles, shares


def _strides(image: Tensor, constants: Constants) -> tuple[int, ...]:
    """The strides of batches, channels, rows and columns; all but the channels' in packs."""
    b, c, h, w = image.stride()
    pack = constants["PACK"]
    return b // pack, c, h // pack, w // pack


def _sizes(call: WarpCall, constants: Constants) -> tuple[float, ...]:
    _, C, Hs, Ws = call.input.shape
    return C // constants["PACK"], Hs, Ws, *call.size, coordinate_limit(torch.float32, (Hs, Ws))
