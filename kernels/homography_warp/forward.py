"""Triton kernel of homography_warp, forward: every mode and padding, for any strides.

A program takes a tile of pixels and goes through the channels.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.homography_warp.taps import axis_tap, clamp, locate
from vsad.kernels.homography_warp.tiles import channel_pointers, over_channels, over_pixels, pixel_offset, pixels_of

# Arguments whose values compile no other kernel. Integers within a tuple would: Triton specializes those whatever is
# listed here, so strides and sizes stay single arguments.
NOT_SPECIALIZED = [
    "image", "homography", "out", "mask",
    "image_b", "image_c", "image_h", "image_w", "out_b", "out_c", "out_h", "out_w",
    "homography_b", "packs", "source_height", "source_width", "height", "width",
]  # fmt: skip


@triton.jit
def weighted_sum(value, source, sx, sy, last_x, last_y, sampled, counts, strides,
                 MODE: tl.constexpr, PADDING: tl.constexpr, LAST: tl.constexpr, PACK: tl.constexpr):  # fmt: skip
    """Adds the weighted taps of a tile to ``value``."""
    TAPS: tl.constexpr = 4 if MODE == "bicubic" else 2 if MODE == "bilinear" else 1
    for j in tl.static_range(TAPS):
        at_y, in_y, weight_y, _ = axis_tap(sy, last_y, j, MODE, PADDING)
        row = tl.zeros_like(value)
        for i in tl.static_range(TAPS):
            at_x, in_x, weight_x, _ = axis_tap(sx, last_x, i, MODE, PADDING)
            at = source + pixel_offset(at_y, at_x, strides, LAST, PACK)
            tap = tl.load(at, mask=over_channels(sampled & in_y & in_x, LAST) & counts, other=0).to(tl.float32)
            row += over_channels(weight_x, LAST) * tap
        value += over_channels(weight_y, LAST) * row
    return value


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def forward_kernel(
    image, homography, out, mask,
    image_b, image_c, image_h, image_w, homography_b, out_b, out_c, out_h, out_w,
    packs, source_height, source_width, height, width, coordinate_limit,
    MODE: tl.constexpr, PADDING: tl.constexpr, LAST: tl.constexpr, PACK: tl.constexpr,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = (TILE_W * TILE_H, TILE_C) if LAST else (TILE_C, TILE_W * TILE_H)
    image_strides = (image_b, image_c, image_h, image_w)
    out_strides = (out_b, out_c, out_h, out_w)
    tiles = tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    x, y, exists = pixels_of(tl.program_id(0) % tiles, height, width, TILE_W, TILE_H)
    last_x, last_y = (source_width - 1).to(tl.float32), (source_height - 1).to(tl.float32)
    sx, sy, _, sampled = locate(homography + b * homography_b, x, y, last_x, last_y, coordinate_limit)
    if tl.program_id(1) == 0:
        valid = sampled & (sx >= 0) & (sx <= last_x) & (sy >= 0) & (sy <= last_y)
        tl.store(mask + (b * height + y) * width + x, valid.to(tl.uint8), mask=exists)

    sampled &= exists
    for start in range(tl.program_id(1) * TILE_C, packs * PACK, tl.num_programs(1) * TILE_C):
        channel = start + tl.arange(0, TILE_C)
        counts = over_pixels(channel < packs * PACK, LAST)
        source = channel_pointers(image, b, image_strides, channel, LAST, PACK)
        value = weighted_sum(
            tl.zeros(TILE, tl.float32), source, sx, sy, last_x, last_y, sampled, counts, image_strides,
            MODE, PADDING, LAST, PACK,
        )  # fmt: skip
        if out.dtype.element_ty == tl.uint8:
            value = clamp(value, 0.0, 255.0) + 8388608.0 - 8388608.0  # rounds: floats from 2^23 on have no fraction
        to = channel_pointers(out, b, out_strides, channel, LAST, PACK) + pixel_offset(y, x, out_strides, LAST, PACK)
        tl.store(to, value.to(out.dtype.element_ty), mask=over_channels(exists, LAST) & counts)
