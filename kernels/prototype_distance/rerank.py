"""Re-ranks the candidates of screening by exact distances, and certifies that nothing else is as near."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.common.rounding import INVERSE, UNIT
from vsad.kernels.prototype_distance.keys import (
    COSINE,
    LAST,
    first_keys,
    insert_keys,
    key_squared,
    pack_key,
    store_nearest,
)
from vsad.kernels.prototype_distance.pack import BEYOND, FAR
from vsad.kernels.prototype_distance.screen import CELL


@triton.jit
def _cell_members(value, tile, BLOCK_P: tl.constexpr):
    """The indices of the prototypes in a cell; the last bits of its value hold its number within the tile."""
    member = tl.arange(0, CELL)
    cell = value.to(tl.int32, bitcast=True) & (BLOCK_P // CELL - 1)
    return tile * BLOCK_P + 16 * (cell // 4) + 2 * (cell % 4) + (member % 2) + 8 * (member // 2)


@triton.jit
def _measure(feature, prototypes, p, P, C, f_column, p_row, p_column, BLOCK_C: tl.constexpr):
    """Squared distances from one feature to the prototypes ``p (CELL,)`` by direct difference."""
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
    return tl.sum(sums, 1)


@triton.jit
def rerank_kernel(
    features, prototypes, no_direction_p, no_direction_f, statistics, margin, square, values, tiles, bounds,
    uncertified, count, distances, indices, P, C, f_row, f_column, p_row, p_column, rows, splits,
    METRIC: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, LIST: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Measures the cells of one feature, the nearest first, until the rest is certainly farther.

    Writes the K nearest if they are certified; else appends the feature to ``uncertified``.
    """
    m = tl.program_id(0)
    slot = tl.arange(0, SPLITS * LIST)
    at = ((slot // LIST).to(tl.int64) * rows + m) * LIST + slot % LIST
    value = tl.load(values + at, mask=slot // LIST < splits, other=4 * FAR)
    tile = tl.load(tiles + at, mask=slot // LIST < splits, other=0)
    split = tl.arange(0, SPLITS)
    bound = tl.min(tl.load(bounds + split.to(tl.int64) * rows + m, mask=split < splits, other=4 * FAR), 0)
    inverse, g, A2 = tl.load(statistics + INVERSE), tl.load(margin + m), tl.load(square + m)
    error = (C * 0.0625 + 144) * UNIT
    if METRIC == COSINE:  # a row without direction is equally far from all prototypes
        g = tl.where(tl.load(no_direction_f + m) != 0, float("inf"), g)

    best = first_keys(1, K, SIZE)
    reach = float("inf")  # an upper bound on the squared distance of the K-th nearest, in the units of screening
    least = tl.min(value, 0)
    feature = features + m.to(tl.int64) * f_row
    while (g < float("inf")) & (least < BEYOND) & ((A2 + 2 * (least - g)) * (1 - error) <= reach):
        chosen = tl.min(tl.where(value == least, tile, 0x7FFFFFFF), 0)
        p = _cell_members(least, chosen, BLOCK_P)
        squared = _measure(feature, prototypes, p, P, C, f_column, p_row, p_column, BLOCK_C)
        if METRIC == COSINE:
            squared = tl.where(tl.load(no_direction_p + p, mask=p < P, other=0) != 0, 2.0, squared)
        key = tl.where(p < P, pack_key(squared, p), LAST + SIZE)
        best = insert_keys(best, key[None, :], SIZE)
        last = tl.max(tl.max(best, 1), 0)
        # the last term covers underflow
        reach = (key_squared(last) * inverse * inverse) * (1 + 2 * error) + (C * 4.7e-38 * inverse) * inverse
        reach = tl.where(last < LAST, reach, float("inf"))
        value = tl.where((value == least) & (tile == chosen), 4 * FAR, value)
        least = tl.min(value, 0)

    if (A2 + 2 * (bound - g)) * (1 - error) > reach:
        store_nearest(best, distances, indices, m + tl.arange(0, 1), tl.arange(0, 1) == 0, K, SIZE, METRIC)
    else:
        place = tl.atomic_add(count, 1)
        tl.store(uncertified + place, m)
