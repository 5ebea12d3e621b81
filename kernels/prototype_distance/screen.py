"""Screening on tensor cores, and the direct differences that settle what screening leaves."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.prototype_distance.keys import (
    COSINE,
    LAST,
    first_keys,
    insert_keys,
    key_squared,
    pack_key,
    store_nearest,
)
from vsad.kernels.prototype_distance.pack import BEYOND, FAR, INVERSE, UNIT

CELL = tl.constexpr(4)  # prototypes that share a place in the lists: what one thread of a tensor core's group holds


@triton.jit
def _cell_minima(scores, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr):
    """The least score of each cell, its last bits replaced by the cell's number, so that all of a row differ.

    Cell c of a row has the columns 16 (c // 4) + 2 (c % 4) + {0, 1, 8, 9}: in the layout of a product's result one
    thread holds them, so that no data moves.
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
    """A tile of a rounded operand, which a tensor descriptor or a pointer leads to; both are padded to whole tiles."""
    if DESCRIBED:
        tile = rounded.load([row, column])
    else:
        n, c = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        tile = tl.load(rounded + n.to(tl.int64)[:, None] * WIDTH + c[None, :])
    return tile


@triton.jit
def _insert_cells(value, tile_of, worst, cells, least, slot, tile, LIST: tl.constexpr):
    """Lists with the least cells of a tile in them, and the worst of each."""
    while tl.max((least < worst).to(tl.int32), 0) > 0:
        # one slot: equal values of several tiles may stand in a list
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
    """The LIST least cells of every row of features in a split of the bank; what they leave out is no less."""
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


@triton.jit
def settle_kernel(
    features, prototypes, flat_p, flat_f, statistics, margin, square, values, tiles, bounds,
    listed, count, distances, indices, P, C, f_row, f_column, p_row, p_column, rows, splits,
    METRIC: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, LIST: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Measures one feature's cells, the nearest first, until the rest is certainly farther; lists it if none is."""
    m = tl.program_id(0)
    slot = tl.arange(0, SPLITS * LIST)
    at = ((slot // LIST).to(tl.int64) * rows + m) * LIST + slot % LIST
    value = tl.load(values + at, mask=slot // LIST < splits, other=4 * FAR)
    tile = tl.load(tiles + at, mask=slot // LIST < splits, other=0)
    split = tl.arange(0, SPLITS)
    bound = tl.min(tl.load(bounds + split.to(tl.int64) * rows + m, mask=split < splits, other=4 * FAR), 0)
    inverse, g, A2 = tl.load(statistics + INVERSE), tl.load(margin + m), tl.load(square + m)
    error = (C * 0.0625 + 144) * UNIT
    if METRIC == COSINE:  # a row without direction is equally far from all
        g = tl.where(tl.load(flat_f + m) != 0, float("inf"), g)

    best = first_keys(1, K, SIZE)
    reach = float("inf")  # what is certainly farther than `reach` is not wanted
    least = tl.min(value, 0)
    member = tl.arange(0, CELL)
    feature = features + m.to(tl.int64) * f_row
    while (g < float("inf")) & (least < BEYOND) & ((A2 + 2 * (least - g)) * (1 - error) <= reach):
        chosen = tl.min(tl.where(value == least, tile, 0x7FFFFFFF), 0)
        cell = least.to(tl.int32, bitcast=True) & (BLOCK_P // CELL - 1)
        p = chosen * BLOCK_P + 16 * (cell // 4) + 2 * (cell % 4) + (member % 2) + 8 * (member // 2)
        prototype = prototypes + p.to(tl.int64) * p_row
        sums = tl.zeros((CELL, BLOCK_C), tl.float32)
        for start in range(0, C, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            wide = c.to(tl.int64)
            f = tl.load(feature + wide * f_column, mask=c < C, other=0.0).to(tl.float32)
            mask = (p < P)[:, None] & (c < C)[None, :]
            x = tl.load(prototype[:, None] + (wide * p_column)[None, :], mask=mask, other=0.0).to(tl.float32)
            difference = f[None, :] - x
            sums += tl.where(mask, difference * difference, 0.0)
        squared = tl.sum(sums, 1)
        if METRIC == COSINE:
            squared = tl.where(tl.load(flat_p + p, mask=p < P, other=0) != 0, 2.0, squared)
        key = tl.where(p < P, pack_key(squared, p), LAST + SIZE)
        best = insert_keys(best, key[None, :], SIZE)
        last = tl.max(tl.max(best, 1), 0)
        # in the units of screening; what underflowed is below the last term
        reach = (key_squared(last) * inverse * inverse) * (1 + 2 * error) + (C * 4.7e-38 * inverse) * inverse
        reach = tl.where(last < LAST, reach, float("inf"))
        value = tl.where((value == least) & (tile == chosen), 4 * FAR, value)
        least = tl.min(value, 0)

    if (A2 + 2 * (bound - g)) * (1 - error) > reach:
        store_nearest(best, distances, indices, m + tl.arange(0, 1), tl.arange(0, 1) == 0, K, SIZE, METRIC)
    else:
        place = tl.atomic_add(count, 1)
        tl.store(listed + place, m)
