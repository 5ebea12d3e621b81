"""Tiles of pixels and channels: what the kernels of homography_warp address at once.

With channels last, lanes run along the channels of a pixel and read packs of 16 bytes; with planes, lanes run along the
pixels of a row. The dimension that lanes run along is the last of a tile. Strides are ``(b, c, h, w)``; all but the
channels' are in packs, so that the compiler sees what they are multiples of.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def over_channels(pixels, LAST: tl.constexpr):
    """One number per pixel, in a shape that broadcasts over the channels of a tile."""
    return tl.expand_dims(pixels, 1 if LAST else 0)


@triton.jit
def over_pixels(channels, LAST: tl.constexpr):
    """One number per channel, in a shape that broadcasts over the pixels of a tile."""
    return tl.expand_dims(channels, 0 if LAST else 1)


@triton.jit
def pixel_offset(y, x, strides, LAST: tl.constexpr, PACK: tl.constexpr):
    """Offsets of pixels within an image."""
    _, _, h, w = strides
    return over_channels((y.to(tl.int64) * h + x.to(tl.int64) * w) * PACK, LAST)


@triton.jit
def channel_pointers(pointer, b, strides, channel, LAST: tl.constexpr, PACK: tl.constexpr):
    """Pointers to channels of the first pixel of image ``b``."""
    stride_b, stride_c, _, _ = strides
    step = 1 if LAST else stride_c
    pointers = pointer + b * stride_b * PACK + over_pixels(channel.to(tl.int64) * step, LAST)
    if PACK > 1:
        pointers = tl.multiple_of(pointers, (1, PACK * pointer.dtype.element_ty.primitive_bitwidth // 8))
    return pointers


@triton.jit
def pixels_of(tile, height, width, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
    """``x, y`` of the pixels of a tile, and which of them exist."""
    tiles_x = tl.cdiv(width, TILE_W)
    pixel = tl.arange(0, TILE_W * TILE_H)
    x = (tile % tiles_x) * TILE_W + pixel % TILE_W
    y = (tile // tiles_x) * TILE_H + pixel // TILE_W
    return x, y, (x < width) & (y < height)
