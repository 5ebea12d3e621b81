"""Screening on tensor cores: the product in float16, with the selection of candidates in its epilogue."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.prototype_distance.pack import FAR

CELL = tl.constexpr(4)  # prototypes that share a place in a list: the columns of a row that one thread holds


@triton.jit
def _cell_minima(scores, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr):
    """The least value of each cell, its last bits replaced by the cell's number, so that all cells of a row differ.

    Cell c of a row has the columns 16 (c // 4) + 2 (c % 4) + {0, 1, 8, 9}: one thread holds them in the layout of the
    accumulators, so that no data moves.
    """
    parts = tl.reshape(scores, (BLOCK_M, BLOCK_P // 16, 2, 4, 2))
    cells = tl.reshape(tl.min(tl.min(parts, 4), 2), (BLOCK_M, BLOCK_P // CELL))
    bits = cells.to(tl.int32, bitcast=True)
    number = tl.arange(0, BLOCK_P // CELL)[None, :]
    return ((bits & -(BLOCK_P // CELL)) | number).to(tl.float32, bitcast=True)


@triton.jit
def _load(
    rounded, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, DESCRIBED: tl.constexpr
):
    """A tile of a rounded operand, by tensor descriptor or by pointer. Operands are padded to whole tiles."""
    if DESCRIBED:
        tile = rounded.load([row, column])
    else:
        n, c = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        tile = tl.load(rounded + n.to(tl.int64)[:, None] * WIDTH + c[None, :])
    return tile


@triton.jit
def _insert_cells(value, tile_of, worst, cells, least, slot, tile, LIST: tl.constexpr):
    """The lists after inserting the least cells of a tile, and the largest value of each list."""
    while tl.max((least < worst).to(tl.int32), 0) > 0:
        # replaces one slot only: a list may hold equal values of several tiles
        place = tl.min(tl.where(value == worst[:, None], slot[None, :], LIST), 1)
        replaced = (least < worst)[:, None] & (slot[None, :] == place[:, None])
        value = tl.where(replaced, least[:, None], value)
        tile_of = tl.where(replaced, tile, tile_of)
        worst = tl.max(value, 1)
        cells = tl.where(cells == least[:, None], 4 * FAR * LIST, cells)
        least = tl.min(cells, 1)
    return value, tile_of, worst


@triton.jit
def screen_kernel(
    rounded_f, rounded_p, slope, offset, values, tiles_out, bounds, blocks_m, tiles, splits,
    BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, STEPS: tl.constexpr, LIST: tl.constexpr,
    DESCRIBED: tl.constexpr, SKIPS: tl.constexpr,
):  # fmt: skip
    """The LIST least cells per feature and split of the bank, and a lower bound on every cell that they leave out."""
    block, split = tl.program_id(0) % blocks_m, tl.program_id(0) // blocks_m
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    WIDTH: tl.constexpr = STEPS * BLOCK_C
    slot = tl.arange(0, LIST)
    a = tl.load(slope + m)
    value = tl.zeros((BLOCK_M, LIST), tl.float32) + ((slot.to(tl.float32) + 1) * (2 * FAR))[None, :]
    tile_of = tl.zeros((BLOCK_M, LIST), tl.int32)
    worst = tl.max(value, 1)
    if STEPS == 1:
        f = _load(rounded_f, block * BLOCK_M, 0, BLOCK_M, BLOCK_C, WIDTH, DESCRIBED)
    for tile in range(tiles * split // splits, tiles * (split + 1) // splits):
        p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        if STEPS == 1:
            product = tl.dot(f, _load(rounded_p, tile * BLOCK_P, 0, BLOCK_P, BLOCK_C, WIDTH, DESCRIBED).T)
        else:
            product = tl.zeros((BLOCK_M, BLOCK_P), tl.float32)
            for step in range(STEPS):
                f = _load(rounded_f, block * BLOCK_M, step * BLOCK_C, BLOCK_M, BLOCK_C, WIDTH, DESCRIBED)
                x = _load(rounded_p, tile * BLOCK_P, step * BLOCK_C, BLOCK_P, BLOCK_C, WIDTH, DESCRIBED)
                product = tl.dot(f, x.T, product)
        scores = a[:, None] * tl.load(offset + p)[None, :] - product
        cells = _cell_minima(scores, BLOCK_M, BLOCK_P)
        least = tl.min(cells, 1)
        if SKIPS:
            if tl.max((least < worst).to(tl.int32), 0) > 0:
                value, tile_of, worst = _insert_cells(value, tile_of, worst, cells, least, slot, tile, LIST)
        else:
            value, tile_of, worst = _insert_cells(value, tile_of, worst, cells, least, slot, tile, LIST)
    row = split.to(tl.int64) * blocks_m * BLOCK_M + m
    to = row[:, None] * LIST + slot[None, :]
    tl.store(values + to, value)
    tl.store(tiles_out + to, tile_of)
    tl.store(bounds + row, worst)
