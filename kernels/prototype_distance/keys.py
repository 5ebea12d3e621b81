"""Lists of the nearest prototypes, whose keys hold a squared distance and an index in one integer."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

# a metric's code is its position in METRICS of vsad/ops/prototype_distance/call.py
METRIC_CODES = range(3)
EUCLIDEAN, SQEUCLIDEAN, COSINE = (tl.constexpr(code) for code in METRIC_CODES)
LAST = tl.constexpr(0x7FFFFFFF << 32)  # orders after every key


@triton.jit
def pack_key(squared, index):
    """The bits of a squared distance, then the index: keys order as distances do, the lower index first, NaN last."""
    number = tl.where(squared == squared, squared, float("nan"))
    bits = number.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # drops the sign of NaN
    return (bits.to(tl.int64) << 32) | index.to(tl.int64)


@triton.jit
def key_squared(key):
    return (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def first_keys(ROWS: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr):
    """Empty lists: K keys that order after every prototype, and SIZE - K keys that nothing replaces. All differ."""
    slot = tl.arange(0, SIZE).to(tl.int64)
    return tl.zeros((ROWS, SIZE), tl.int64) + tl.where(slot < K, slot + LAST, slot - SIZE)[None, :]


@triton.jit
def insert_keys(best, keys, SIZE: tl.constexpr):
    """The unordered lists ``best (rows, SIZE)`` after inserting the least of ``keys (rows, columns)``."""
    least = tl.min(keys, 1)
    if SIZE == 1:
        best = tl.minimum(best, least[:, None])
    else:
        worst = tl.max(best, 1)
        while tl.max((least < worst).to(tl.int32), 0) > 0:
            replaced = (least < worst)[:, None] & (best == worst[:, None])
            best = tl.where(replaced, least[:, None], best)
            keys = tl.where(keys == least[:, None], LAST + SIZE, keys)
            worst = tl.max(best, 1)
            least = tl.min(keys, 1)
    return best


@triton.jit
def store_nearest(best, distances, indices, rows, exists, K: tl.constexpr, SIZE: tl.constexpr, METRIC: tl.constexpr):
    """Writes lists, in ascending order, as distances and indices."""
    if SIZE > 1:
        best = tl.sort(best)
    slot = tl.arange(0, SIZE) - (SIZE - K)
    squared = key_squared(best)
    distance = squared
    if METRIC == EUCLIDEAN:
        distance = tl.sqrt_rn(squared)
    if METRIC == COSINE:
        distance = squared * 0.5
    to = rows.to(tl.int64)[:, None] * K + slot[None, :]
    mask = exists[:, None] & (slot >= 0)[None, :]
    tl.store(distances + to, distance.to(distances.dtype.element_ty), mask=mask)
    tl.store(indices + to, best & 0x7FFFFFFF, mask=mask)
