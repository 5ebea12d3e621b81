"""Triton kernel of homography_align, forward: a tile of pixels of one head, all slots, online softmax.

The kernel goes through a window row by row: a row of key taps gives R + 1 dot products, two such rows a row of logits,
and these the weights of a row of value taps. Only the last rows are kept, so registers grow with R and not with R^2.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005 (Triton's tuples grow by concatenation)
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.homography_align.window import (
    add_row,
    cell_inside,
    cells_of,
    columns_of,
    dot_row,
    head_of,
    load_pixels,
    locate,
    logits_of,
    mix_all,
    scaled,
    softmax_row,
    spread,
    store_pixels,
    tap_of,
    tile_of,
    zeros,
)


@triton.jit
def attend_window(
    softmax, pixels, keys, values, key, value, bias, n, sx, sy, near, sizes, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Adds the cells of slot n to the online softmax ``(peak, total, result)``."""
    peak, total, result = softmax
    fx, fy = sx - tl.floor(sx), sy - tl.floor(sy)
    columns, touched, inside = columns_of(sx, near, R, sizes.source_width)
    row, row_touched = tap_of(sy, 0, R, sizes.source_height)
    above = dot_row(pixels, keys, key, columns, touched, row, row_touched, C, BLOCK, WIDE)
    before = zeros(sx, R + 1)  # what a row of taps receives from the cells above it
    for i in range(R):
        next_row, next_touched = tap_of(sy, i + 1, R, sizes.source_height)
        below = dot_row(pixels, keys, key, columns, touched, next_row, next_touched, C, BLOCK, WIDE)
        row_inside = cell_inside(sy, i, R, sizes.source_height)
        logits = logits_of(cells_of(fx, fy, above, below), bias, n, i, inside, row_inside, scale)
        peak, total, factor, weights = softmax_row(peak, total, logits)
        taps = spread(fx, weights)
        result = add_row(
            scaled(result, factor[:, None]), mix_all(fy, taps, scaled(before, factor)),
            values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE,
        )  # fmt: skip
        above, before, row, row_touched = below, taps, next_row, next_touched
    result = add_row(
        result, scaled(before, fy), values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE
    )  # fmt: skip
    return peak, total, result


@triton.jit
def forward_kernel(
    query, key, value, homography, neighbors, bias, out, to_peak, to_log_sum, sizes, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """``out``, peak and log_sum of a tile of pixels of one head; query, key, value and out are ``Image``."""
    PIXELS: tl.constexpr = TILE_H * TILE_W
    view, head, _, x, y = tile_of(sizes, TILE_H, TILE_W)
    b, v = view // sizes.views, view % sizes.views
    exists = (x < sizes.width) & (y < sizes.height)
    pixels = load_pixels(head_of(query, b, v, head, C), query, x, y, exists, C, BLOCK, WIDE)
    peak = tl.full((PIXELS,), float("-inf"), tl.float32)
    total = tl.zeros((PIXELS,), tl.float32)
    result = zeros(tl.zeros((PIXELS, BLOCK_V), tl.float32), (CV + BLOCK_V - 1) // BLOCK_V)
    head_bias = bias + head * sizes.slots * R * R if bias is not None else None

    for n in range(sizes.slots):
        edge = v * sizes.slots + n
        neighbor = tl.load(neighbors + edge)
        sx, sy, _Z, near = locate(homography + b * sizes.homography_b + edge * 9, neighbor, sizes, x, y, R)
        if tl.max(near.to(tl.int32), 0) > 0:
            keys = head_of(key, b, neighbor, head, C)
            values = head_of(value, b, neighbor, head, CV)
            peak, total, result = attend_window(
                (peak, total, result), pixels, keys, values, key, value, head_bias, n, sx, sy, near, sizes, scale,
                C, CV, R, WIDE, BLOCK, BLOCK_V,
            )  # fmt: skip

    nowhere = total == 0
    divisor = tl.where(nowhere, 1.0, total)
    at = (view * sizes.heads + head) * sizes.height * sizes.width + y * sizes.width + x
    tl.store(to_peak + at, peak, mask=exists)
    tl.store(to_log_sum + at, tl.log(divisor), mask=exists)
    averages = ()
    for c in tl.static_range(len(result)):
        averages = averages + (result[c] / divisor[:, None],)
    store_pixels(head_of(out, b, v, head, CV), out, x, y, exists, averages, CV, BLOCK_V, WIDE)
