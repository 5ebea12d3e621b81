"""Triton kernels of homography_warp: bilinear with zeros outside, forward and backward, for any strides."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsad.ops._layout import empty_like_layout

# pixels x channels of a program's tile: the memory's fast dimension gets the longer side; beyond 512 cells the
# backward kernel's registers spill
PLANES = (128, 4)
CHANNELS_LAST = (16, 32)


@triton.jit
def _locate(homography, stride, b, pixel, pixels, width, source_height, source_width):
    """Where target pixels land: ``x, y, Z, sx, sy, near``; what is not near the source is moved to (0, 0)."""
    h = homography + b * stride
    x, y = (pixel % width).to(tl.float32), (pixel // width).to(tl.float32)
    X = tl.load(h) * x + tl.load(h + 1) * y + tl.load(h + 2)
    Y = tl.load(h + 3) * x + tl.load(h + 4) * y + tl.load(h + 5)
    Z = tl.load(h + 6) * x + tl.load(h + 7) * y + tl.load(h + 8)
    # a NaN fails every comparison, so it is never near; the divide is by 1 where Z is not positive
    front = (Z > 0) & (pixel < pixels)
    Z = tl.where(front, Z, 1.0)
    sx, sy = X / Z, Y / Z
    near = front & (sx > -1) & (sx < source_width) & (sy > -1) & (sy < source_height)
    return x, y, Z, tl.where(near, sx, 0.0), tl.where(near, sy, 0.0), near


@triton.jit
def _tap(column, row, near, stride_h, stride_w, height, width):
    """Offset of one tap and whether it lies in the source."""
    exists = near & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w, exists


@triton.jit
def forward_kernel(
    image, homography, out, mask,
    image_b, image_c, image_h, image_w, homography_b, out_b, out_c, out_h, out_w,
    channels, source_height, source_width, height, width,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pixels = height * width
    blocks = tl.cdiv(pixels, BLOCK_P)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    _, _, _, sx, sy, near = _locate(homography, homography_b, b, pixel, pixels, width, source_height, source_width)
    inside = near & (sx >= 0) & (sx <= source_width - 1) & (sy >= 0) & (sy <= source_height - 1)
    tl.store(mask + b * pixels + pixel, inside.to(tl.uint8), mask=pixel < pixels)

    left, top = tl.floor(sx), tl.floor(sy)
    fx, fy = (sx - left)[:, None], (sy - top)[:, None]
    column, row = left.to(tl.int32), top.to(tl.int32)
    at00, has00 = _tap(column, row, near, image_h, image_w, source_height, source_width)
    at01, has01 = _tap(column + 1, row, near, image_h, image_w, source_height, source_width)
    at10, has10 = _tap(column, row + 1, near, image_h, image_w, source_height, source_width)
    at11, has11 = _tap(column + 1, row + 1, near, image_h, image_w, source_height, source_width)
    to = (pixel // width).to(tl.int64) * out_h + (pixel % width).to(tl.int64) * out_w

    for start in range(0, channels, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        exists = (channel < channels)[None, :]
        source = image + b * image_b + (channel.to(tl.int64) * image_c)[None, :]
        v00 = tl.load(source + at00[:, None], mask=has00[:, None] & exists, other=0.0).to(tl.float32)
        v01 = tl.load(source + at01[:, None], mask=has01[:, None] & exists, other=0.0).to(tl.float32)
        v10 = tl.load(source + at10[:, None], mask=has10[:, None] & exists, other=0.0).to(tl.float32)
        v11 = tl.load(source + at11[:, None], mask=has11[:, None] & exists, other=0.0).to(tl.float32)
        value = (1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11)
        target = out + b * out_b + (channel.to(tl.int64) * out_c)[None, :] + to[:, None]
        tl.store(target, value.to(out.dtype.element_ty), mask=(pixel < pixels)[:, None] & exists)


@triton.jit
def backward_kernel(
    grad_out, image, homography, grad_image, grad_homography,
    grad_b, grad_c, grad_h, grad_w, image_b, image_c, image_h, image_w, homography_b,
    to_b, to_c, to_h, to_w, channels, source_height, source_width, height, width,
    NEED_IMAGE: tl.constexpr, NEED_HOMOGRAPHY: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pixels = height * width
    blocks = tl.cdiv(pixels, BLOCK_P)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    x, y, Z, sx, sy, near = _locate(homography, homography_b, b, pixel, pixels, width, source_height, source_width)
    left, top = tl.floor(sx), tl.floor(sy)
    fx, fy = (sx - left)[:, None], (sy - top)[:, None]
    column, row = left.to(tl.int32), top.to(tl.int32)
    at = (pixel // width).to(tl.int64) * grad_h + (pixel % width).to(tl.int64) * grad_w
    gx, gy = tl.zeros((BLOCK_P,), tl.float32), tl.zeros((BLOCK_P,), tl.float32)

    for start in range(0, channels, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        exists = (channel < channels)[None, :]
        wide = channel.to(tl.int64)
        grads = grad_out + b * grad_b + (wide * grad_c)[None, :] + at[:, None]
        g = tl.load(grads, mask=near[:, None] & exists, other=0.0).to(tl.float32)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                wx = fx if dx else 1 - fx
                wy = fy if dy else 1 - fy
                if NEED_HOMOGRAPHY:
                    offset, has = _tap(column + dx, row + dy, near, image_h, image_w, source_height, source_width)
                    taps = image + b * image_b + (wide * image_c)[None, :] + offset[:, None]
                    v = g * tl.load(taps, mask=has[:, None] & exists, other=0.0).to(tl.float32)
                    gx += tl.sum(v * (wy if dx else -wy), 1)
                    gy += tl.sum(v * (wx if dy else -wx), 1)
                if NEED_IMAGE:
                    offset, has = _tap(column + dx, row + dy, near, to_h, to_w, source_height, source_width)
                    to = grad_image + b * to_b + (wide * to_c)[None, :] + offset[:, None]
                    tl.atomic_add(to, g * (wx * wy), mask=has[:, None] & exists, sem="relaxed")

    if NEED_HOMOGRAPHY:
        gX, gY, gZ = gx / Z, gy / Z, -(gx * sx + gy * sy) / Z
        to = grad_homography + tl.program_id(0).to(tl.int64) * 9
        tl.store(to + 0, tl.sum(gX * x, 0))
        tl.store(to + 1, tl.sum(gX * y, 0))
        tl.store(to + 2, tl.sum(gX, 0))
        tl.store(to + 3, tl.sum(gY * x, 0))
        tl.store(to + 4, tl.sum(gY * y, 0))
        tl.store(to + 5, tl.sum(gY, 0))
        tl.store(to + 6, tl.sum(gZ * x, 0))
        tl.store(to + 7, tl.sum(gZ * y, 0))
        tl.store(to + 8, tl.sum(gZ, 0))


def forward(input: Tensor, homography: Tensor, size: list[int], mode: str, padding: str) -> tuple[Tensor, Tensor]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    B, C, H, W = input.shape
    height, width = size
    out = empty_like_layout(input, C, size=(height, width))
    mask = input.new_empty((B, height, width), dtype=torch.bool)
    block_p, block_c = _tile(input)
    programs = B * triton.cdiv(height * width, block_p)
    if programs:
        homography = homography.contiguous()
        forward_kernel[(programs,)](
            input, homography, out, mask.view(torch.uint8),
            *input.stride(), _batch_stride(homography), *out.stride(), C, H, W, height, width,
            BLOCK_P=block_p, BLOCK_C=block_c, enable_fp_fusion=True,
        )  # fmt: skip
    return out, mask


def backward(
    grad_out: Tensor, input: Tensor, homography: Tensor, mode: str, padding: str, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of input and homography; an empty tensor where ``needs`` says no.

    The input's gradient is added up atomically, in float32, so its last bits differ from run to run.
    """
    B, C, H, W = input.shape
    height, width = grad_out.shape[2:]
    block_p, block_c = _tile(input)
    blocks = triton.cdiv(height * width, block_p)
    need_input, need_homography = needs
    grad_input = empty_like_layout(input, C, dtype=torch.float32).zero_() if need_input else None
    parts = homography.new_empty((B, blocks, 3, 3)) if need_homography else None
    if B * blocks:
        homography = homography.contiguous()
        scattered = input if grad_input is None else grad_input
        backward_kernel[(B * blocks,)](
            grad_out, input, homography, grad_input, parts,
            *grad_out.stride(), *input.stride(), _batch_stride(homography), *scattered.stride(),
            C, H, W, height, width,
            NEED_IMAGE=need_input, NEED_HOMOGRAPHY=need_homography, BLOCK_P=block_p, BLOCK_C=block_c,
            enable_fp_fusion=True,
        )  # fmt: skip
    if grad_input is None:
        grad_input = input.new_empty((0,))
    if parts is None:
        return grad_input.to(input.dtype), homography.new_empty((0,))
    parts = parts if homography.shape[0] == B else parts.flatten(0, 1)[None]  # one homography gathers the whole batch
    return grad_input.to(input.dtype), parts.sum(1, dtype=torch.float64).to(homography.dtype)


def _tile(input: Tensor) -> tuple[int, int]:
    """Pixels and channels that one program takes."""
    return CHANNELS_LAST if input.stride(1) == 1 and input.shape[1] > 1 else PLANES


def _batch_stride(homography: Tensor) -> int:
    return homography.stride(0) if homography.shape[0] > 1 else 0
