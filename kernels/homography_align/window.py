"""What the Triton kernels of homography_align share: arguments, tiles of pixels, windows, rows of taps and of cells."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005 (Triton's tuples grow by concatenation)
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from vsad.kernels.common.geometry import project


class Image(NamedTuple):
    """A tensor ``(B, V, C, H, W)`` as kernels take it: its data and its strides in elements."""

    data: Any
    b: Any
    v: Any
    c: Any
    h: Any
    w: Any


class Sizes(NamedTuple):
    """The sizes of a call, and the batch stride of homography, which is 0 when all batches share one."""

    views: Any
    sources: Any
    slots: Any
    heads: Any
    height: Any
    width: Any
    source_height: Any
    source_width: Any
    homography_b: Any


@triton.jit
def tile_of(sizes, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """``view, head, tile, x, y`` of this program; view counts over all batches.

    Heads run fastest, because the heads of a pixel share cache lines.
    """
    across = tl.cdiv(sizes.width, TILE_W)
    tiles = across * tl.cdiv(sizes.height, TILE_H)
    head = tl.program_id(0) % sizes.heads
    rest = tl.program_id(0) // sizes.heads
    tile = rest % tiles
    pixel = tl.arange(0, TILE_H * TILE_W)
    x = tile % across * TILE_W + pixel % TILE_W
    y = tile // across * TILE_H + pixel // TILE_W
    return (rest // tiles).to(tl.int64), head, tile, x, y


@triton.jit
def head_of(image, b, view, head, C: tl.constexpr):
    """Pointer to the first channel of a head in one view; C is the number of channels per head."""
    return image.data + b * image.b + view * image.v + head.to(tl.int64) * C * image.c


@triton.jit
def block_of(
    x, y, stride_w, stride_h, stride_c, exists,
    start: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Offsets of a block of channels of every pixel, and which of them exist; 64-bit when WIDE."""
    channel = start + tl.arange(0, BLOCK)
    if WIDE:
        pixel = x.to(tl.int64) * stride_w + y.to(tl.int64) * stride_h
        offset = channel.to(tl.int64) * stride_c
    else:
        pixel = x * stride_w + y * stride_h
        offset = channel * stride_c
    exists = exists[:, None]
    if C % BLOCK:
        exists = exists & (channel < C)[None, :]
    return pixel[:, None] + offset[None, :], exists


@triton.jit
def load_pixels(base, image, x, y, exists, C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """All channels of every pixel in float32, as a tuple of blocks (pixels, BLOCK)."""
    blocks = ()
    for start in tl.static_range(0, C, BLOCK):
        at, mask = block_of(x, y, image.w, image.h, image.c, exists, start, C, BLOCK, WIDE)
        blocks = blocks + (tl.load(base + at, mask=mask, other=0.0).to(tl.float32),)
    return blocks


@triton.jit
def store_pixels(base, image, x, y, exists, blocks, C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """The inverse of ``load_pixels``: rounds to the dtype of the image."""
    for c in tl.static_range(len(blocks)):
        to, mask = block_of(x, y, image.w, image.h, image.c, exists, c * BLOCK, C, BLOCK, WIDE)
        tl.store(base + to, blocks[c].to(image.data.dtype.element_ty), mask=mask)


@triton.jit
def dot(a, b):
    """Dot products over all channels of every pixel."""
    products = a[0] * b[0]
    for c in tl.static_range(1, len(a)):
        products += a[c] * b[c]
    return tl.sum(products, 1)


@triton.jit
def add_scaled(blocks, weight, other):
    """``blocks + weight * other``, one weight per pixel."""
    result = ()
    for c in tl.static_range(len(blocks)):
        result = result + (blocks[c] + weight[:, None] * other[c],)
    return result


@triton.jit
def locate(homography, neighbor, sizes, x, y, R: tl.constexpr):
    """``sx, sy, Z, near`` of the pixels: near tells which windows may touch the source; the others move to (0, 0)."""
    sx, sy, Z, front = project(homography, x.to(tl.float32), y.to(tl.float32))
    filled = (neighbor >= 0) & (neighbor < sizes.sources)
    near = front & (y < sizes.height) & (x < tl.where(filled, sizes.width, 0))
    radius: tl.constexpr = R // 2
    near = near & (sx >= -radius) & (sx <= sizes.source_width - 1 + radius)
    near = near & (sy >= -radius) & (sy <= sizes.source_height - 1 + radius)
    return tl.where(near, sx, 0.0), tl.where(near, sy, 0.0), Z, near


@triton.jit
def cell_inside(s, i, R: tl.constexpr, size):
    """Whether cell i of the windows, along one axis, lies within the centers of the source's border pixels."""
    at = s + (i - R // 2)
    return (at >= 0) & (at <= size - 1) & (i >= 0) & (i < R)


@triton.jit
def tap_of(s, i, R: tl.constexpr, size):
    """Tap i of the windows along one axis, and whether a valid cell touches it: no other tap may be read.

    A tap beyond the border has weight zero. It is replaced by the border pixel, as in the reference, so that the slope
    across the border is the reference's too.
    """
    touched = cell_inside(s, i - 1, R, size) | cell_inside(s, i, R, size)
    index = tl.floor(s).to(tl.int32) + (i - R // 2)
    return tl.minimum(tl.maximum(index, 0), size - 1), touched


@triton.jit
def columns_of(sx, near, R: tl.constexpr, source_width):
    """``tap_of`` of all taps of a row, and which cells of a row are inside."""
    columns, touched, inside = (), (), ()
    for j in tl.static_range(R + 1):
        column, on = tap_of(sx, j, R, source_width)
        columns, touched = columns + (column,), touched + (on & near,)
    for j in tl.static_range(R):
        inside = inside + (cell_inside(sx, j, R, source_width) & near,)
    return columns, touched, inside


@triton.jit
def dot_row(
    pixels, base, image, columns, touched, row, row_touched, C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Dot products of every pixel with a row of taps."""
    dots = ()
    for j in tl.static_range(len(columns)):
        taps = load_pixels(base, image, columns[j], row, touched[j] & row_touched, C, BLOCK, WIDE)
        dots = dots + (dot(pixels, taps),)
    return dots


@triton.jit
def add_row(
    total, weights, base, image, columns, touched, row, row_touched,
    C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """``total`` plus the weighted taps of a row."""
    for j in tl.static_range(len(columns)):
        taps = load_pixels(base, image, columns[j], row, touched[j] & row_touched, C, BLOCK, WIDE)
        total = add_scaled(total, weights[j], taps)
    return total


@triton.jit
def mix(f, a, b):
    """``(1 - f) a + f b``, fused in one way only: the two passes of the backward must find the same bits."""
    return tl.fma(f, b, (1 - f) * a)


@triton.jit
def cells_of(fx, fy, above, below):
    """Bilinear interpolation between two rows of taps: the R cells there."""
    cells = ()
    for j in tl.static_range(len(above) - 1):
        cells = cells + (mix(fy, mix(fx, above[j], above[j + 1]), mix(fx, below[j], below[j + 1])),)
    return cells


@triton.jit
def logits_of(cells, bias, n, i, inside, row_inside, scale):
    """Logits of row i of the cells of slot n; -inf where a cell is not valid."""
    R: tl.constexpr = len(cells)
    logits = ()
    for j in tl.static_range(R):
        logit = cells[j] * scale
        if bias is not None:
            logit += tl.load(bias + (n * R + i) * R + j)
        logits = logits + (tl.where(inside[j] & row_inside, logit, float("-inf")),)
    return logits


@triton.jit
def spread(f, cells):
    """What the R + 1 taps of a row receive from the R cells between them."""
    taps = ((1 - f) * cells[0],)
    for j in tl.static_range(1, len(cells)):
        taps = taps + (mix(f, cells[j], cells[j - 1]),)
    return taps + (f * cells[len(cells) - 1],)


@triton.jit
def mix_all(f, a, b):
    result = ()
    for j in tl.static_range(len(a)):
        result = result + (mix(f, a[j], b[j]),)
    return result


@triton.jit
def softmax_row(peak, total, logits):
    """Online softmax over one more row of cells: ``peak, total, factor, weights``."""
    highest = peak
    for j in tl.static_range(len(logits)):
        highest = tl.maximum(highest, logits[j])
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    factor = tl.exp(peak - shift)
    total = total * factor
    weights = ()
    for j in tl.static_range(len(logits)):
        weight = tl.exp(logits[j] - shift)
        total += weight
        weights = weights + (weight,)
    return highest, total, factor, weights


@triton.jit
def zeros(like, COUNT: tl.constexpr):
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (like * 0,)
    return result


@triton.jit
def scaled(values, factor):
    result = ()
    for j in tl.static_range(len(values)):
        result = result + (values[j] * factor,)
    return result
