"""Triton kernel of homography_warp, backward: every mode and padding, for any strides.

A program takes several tiles of pixels of one image, so that it reduces its part of the homography's gradient once. The
image's gradient is scattered by atomic additions.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.common.fixed_point import add_fixed_point
from vsad.kernels.common.geometry import project_backward
from vsad.kernels.homography_warp.taps import axis_tap, locate
from vsad.kernels.homography_warp.tiles import channel_pointers, over_channels, over_pixels, pixel_offset, pixels_of

# as in forward.py
NOT_SPECIALIZED = [
    "grad_out", "image", "homography", "scale", "grad_image", "grad_homography",
    "out_b", "out_c", "out_h", "out_w", "image_b", "image_c", "image_h", "image_w", "to_b", "to_c", "to_h", "to_w",
    "homography_b", "packs", "source_height", "source_width", "height", "width", "tiles_per_program",
]  # fmt: skip


@triton.jit
def scatter(to, weight, g, scale, mask, LAST: tl.constexpr):
    """Adds ``weight * g`` to floats or, with a scale, to fixed-point numbers."""
    weight = over_channels(weight, LAST)
    if scale is None:
        tl.atomic_add(to, weight * g, mask=mask, sem="relaxed")
    else:
        add_fixed_point(to, weight.to(tl.float64) * g.to(tl.float64), tl.load(scale), mask)


@triton.jit
def add_taps(
    gx, gy, g, source, to, scale, point, last_x, last_y, sampled, counts, image_strides, to_strides,
    MODE: tl.constexpr, PADDING: tl.constexpr, LAST: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """Scatters ``g`` to its taps; adds its part of the gradient of the projected point to ``gx`` and ``gy``."""
    TAPS: tl.constexpr = 4 if MODE == "bicubic" else 2 if MODE == "bilinear" else 1
    sx, sy = point
    for j in tl.static_range(TAPS):
        at_y, in_y, weight_y, slope_y = axis_tap(sy, last_y, j, MODE, PADDING)
        for i in tl.static_range(TAPS):
            at_x, in_x, weight_x, slope_x = axis_tap(sx, last_x, i, MODE, PADDING)
            mask = over_channels(sampled & in_y & in_x, LAST) & counts
            if source is not None:
                tap = tl.load(source + pixel_offset(at_y, at_x, image_strides, LAST, PACK), mask=mask, other=0)
                v = g * tap.to(tl.float32)
                gx += over_channels(weight_y * slope_x, LAST) * v
                gy += over_channels(slope_y * weight_x, LAST) * v
            if to is not None:
                at = to + pixel_offset(at_y, at_x, to_strides, LAST, PACK)
                scatter(at, weight_y * weight_x, g, scale, mask, LAST)
    return gx, gy


@triton.jit
def add_moments(sums, d, x, y):
    """``sums += d (x, y, 1)`` per pixel."""
    by_x, by_y, by_1 = sums
    return by_x + d * x.to(tl.float32), by_y + d * y.to(tl.float32), by_1 + d


@triton.jit
def store_moments(to, sums):
    for i in tl.static_range(3):
        tl.store(to + i, tl.sum(sums[i], 0))


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_kernel(
    grad_out, image, homography, scale, grad_image, grad_homography,
    out_b, out_c, out_h, out_w, image_b, image_c, image_h, image_w, homography_b, to_b, to_c, to_h, to_w,
    packs, source_height, source_width, height, width, coordinate_limit, tiles_per_program,
    MODE: tl.constexpr, PADDING: tl.constexpr, LAST: tl.constexpr, PACK: tl.constexpr,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """A gradient without a pointer is not needed. With a scale, ``grad_image`` is int64 in fixed point."""
    TILE: tl.constexpr = (TILE_W * TILE_H, TILE_C) if LAST else (TILE_C, TILE_W * TILE_H)
    out_strides, to_strides = (out_b, out_c, out_h, out_w), (to_b, to_c, to_h, to_w)
    image_strides = (image_b, image_c, image_h, image_w)
    tiles = tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)
    programs = tl.cdiv(tiles, tiles_per_program)
    b = (tl.program_id(0) // programs).to(tl.int64)
    first = tl.program_id(0) % programs * tiles_per_program
    last_x, last_y = (source_width - 1).to(tl.float32), (source_height - 1).to(tl.float32)
    none = tl.zeros((TILE_W * TILE_H,), tl.float32)
    sums_X, sums_Y, sums_Z = (none, none, none), (none, none, none), (none, none, none)

    for tile in range(first, tl.minimum(first + tiles_per_program, tiles)):
        x, y, exists = pixels_of(tile, height, width, TILE_W, TILE_H)
        sx, sy, Z, sampled = locate(homography + b * homography_b, x, y, last_x, last_y, coordinate_limit)
        sampled &= exists
        gx, gy = tl.zeros(TILE, tl.float32), tl.zeros(TILE, tl.float32)
        for start in range(tl.program_id(1) * TILE_C, packs * PACK, tl.num_programs(1) * TILE_C):
            channel = start + tl.arange(0, TILE_C)
            counts = over_pixels(channel < packs * PACK, LAST)
            at = channel_pointers(grad_out, b, out_strides, channel, LAST, PACK)
            at += pixel_offset(y, x, out_strides, LAST, PACK)
            g = tl.load(at, mask=over_channels(sampled, LAST) & counts, other=0).to(tl.float32)
            source, to = None, None
            if grad_homography is not None:
                source = channel_pointers(image, b, image_strides, channel, LAST, PACK)
            if grad_image is not None:
                to = channel_pointers(grad_image, b, to_strides, channel, LAST, PACK)
            gx, gy = add_taps(
                gx, gy, g, source, to, scale, (sx, sy), last_x, last_y, sampled, counts, image_strides, to_strides,
                MODE, PADDING, LAST, PACK,
            )  # fmt: skip
        if grad_homography is not None:
            axis: tl.constexpr = 1 if LAST else 0
            dX, dY, dZ = project_backward(tl.sum(gx, axis), tl.sum(gy, axis), sx, sy, Z)
            sums_X = add_moments(sums_X, dX, x, y)
            sums_Y = add_moments(sums_Y, dY, x, y)
            sums_Z = add_moments(sums_Z, dZ, x, y)

    if grad_homography is not None:
        to = grad_homography + (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * 9
        store_moments(to, sums_X)
        store_moments(to + 3, sums_Y)
        store_moments(to + 6, sums_Z)
