"""What the Triton kernels of homography_align share: tiles of pixels, windows, rows of taps and of cells."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005 (Triton's tuples grow by concatenation)
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.common.geometry import project


@triton.jit
def tile_of(heads, height, width, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """``image, head, tile, x, y`` of this program: heads run fastest, they share the cache lines of a pixel."""
    across = tl.cdiv(width, TILE_W)
    tiles = across * tl.cdiv(height, TILE_H)
    head = tl.program_id(0) % heads
    rest = tl.program_id(0) // heads
    tile = rest % tiles
    pixel = tl.arange(0, TILE_H * TILE_W)
    x = tile % across * TILE_W + pixel % TILE_W
    y = tile // across * TILE_H + pixel // TILE_W
    return (rest // tiles).to(tl.int64), head, tile, x, y


@triton.jit
def offset_of(x, y, stride_w, stride_h, WIDE: tl.constexpr):
    if WIDE:
        return x.to(tl.int64) * stride_w + y.to(tl.int64) * stride_h
    else:
        return x * stride_w + y * stride_h


@triton.jit
def block_of(offset, exists, stride_c, start: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of a block of channels of every pixel, and which of them exist."""
    channel = start + tl.arange(0, BLOCK)
    at = channel.to(tl.int64) * stride_c if WIDE else channel * stride_c
    exists = exists[:, None]
    if C % BLOCK:
        exists = exists & (channel < C)[None, :]
    return offset[:, None] + at[None, :], exists


@triton.jit
def load_pixels(base, offset, exists, stride_c, C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """All channels of every pixel in float32, as a tuple of blocks (pixels, BLOCK)."""
    blocks = ()
    for start in tl.static_range(0, C, BLOCK):
        at, mask = block_of(offset, exists, stride_c, start, C, BLOCK, WIDE)
        blocks = blocks + (tl.load(base + at, mask=mask, other=0.0).to(tl.float32),)
    return blocks


@triton.jit
def dot(a, b):
    """Over all channels of every pixel."""
    products = a[0] * b[0]
    for c in tl.static_range(1, len(a)):
        products += a[c] * b[c]
    return tl.sum(products, 1)


@triton.jit
def add_scaled(blocks, weight, other):
    """``blocks + weight * other``, a weight for each pixel."""
    result = ()
    for c in tl.static_range(len(blocks)):
        result = result + (blocks[c] + weight[:, None] * other[c],)
    return result


@triton.jit
def locate(homography, neighbor, sources, x, y, height, width, R: tl.constexpr, source_height, source_width):
    """``sx, sy, Z, near`` of the pixels; a point that no window reaches, or an empty slot's, moves to (0, 0)."""
    sx, sy, Z, front = project(homography, x.to(tl.float32), y.to(tl.float32))
    near = front & (y < height) & (x < tl.where((neighbor >= 0) & (neighbor < sources), width, 0))
    radius: tl.constexpr = R // 2
    near = near & (sx >= -radius) & (sx <= source_width - 1 + radius)
    near = near & (sy >= -radius) & (sy <= source_height - 1 + radius)
    return tl.where(near, sx, 0.0), tl.where(near, sy, 0.0), Z, near


@triton.jit
def cell_inside(s, i, R: tl.constexpr, size):
    """Whether cell i of the windows, along one axis, lies within the centres of the source's border pixels."""
    at = s + (i - R // 2)
    return (at >= 0) & (at <= size - 1) & (i >= 0) & (i < R)


@triton.jit
def tap_of(s, i, R: tl.constexpr, size):
    """Tap i of the windows along one axis, and whether a valid cell touches it: nothing else may be read.

    A tap beyond the border has weight zero; the derivative there is the reference's, which reads its neighbour instead.
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
    pixels, source, stride_c, stride_h, stride_w, columns, touched, row, row_touched,
    C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Dot products of every pixel with a row of taps."""
    dots = ()
    for j in tl.static_range(len(columns)):
        offset = offset_of(columns[j], row, stride_w, stride_h, WIDE)
        dots = dots + (dot(pixels, load_pixels(source, offset, touched[j] & row_touched, stride_c, C, BLOCK, WIDE)),)
    return dots


@triton.jit
def add_row(
    total, weights, source, stride_c, stride_h, stride_w, columns, touched, row, row_touched,
    C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """``total`` plus a row of taps, weighted."""
    for j in tl.static_range(len(columns)):
        offset = offset_of(columns[j], row, stride_w, stride_h, WIDE)
        taps = load_pixels(source, offset, touched[j] & row_touched, stride_c, C, BLOCK, WIDE)
        total = add_scaled(total, weights[j], taps)
    return total


@triton.jit
def mix(f, a, b):
    return (1 - f) * a + f * b


@triton.jit
def cells_of(fx, fy, above, below):
    """Bilinear interpolation between two rows of taps: the R cells there."""
    cells = ()
    for j in tl.static_range(len(above) - 1):
        cells = cells + (mix(fy, mix(fx, above[j], above[j + 1]), mix(fx, below[j], below[j + 1])),)
    return cells


@triton.jit
def logits_of(cells, bias, n, i, inside, row_inside, scale, HAS_BIAS: tl.constexpr):
    """Logits of a row of cells; -inf where one is not valid."""
    R: tl.constexpr = len(cells)
    logits = ()
    for j in tl.static_range(R):
        logit = cells[j] * scale
        if HAS_BIAS:
            logit += tl.load(bias + (n * R + i) * R + j)
        logits = logits + (tl.where(inside[j] & row_inside, logit, float("-inf")),)
    return logits


@triton.jit
def spread(f, cells):
    """What R + 1 taps receive from the R cells between them."""
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
