"""Every feature against every prototype by direct difference: small problems, and what screening did not certify."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.prototype_distance.keys import COSINE, LAST, first_keys, insert_keys, pack_key, store_nearest

PARTIAL = tl.constexpr(8)  # channels per partial sum: a sum of C terms rounds at most C / 8 + 8 times


@triton.jit
def normalize_kernel(rows, out, no_direction, N, C, row, column, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Normalizes rows to unit length and marks rows of zeros; squares neither overflow nor underflow in float64."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = rows + n.to(tl.int64)[:, None] * row
    sums = tl.zeros((BLOCK_N, BLOCK_C), tl.float64)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (n < N)[:, None] & (c < C)[None, :]
        x = tl.load(at + c.to(tl.int64)[None, :] * column, mask=mask, other=0.0).to(tl.float64)
        sums += x * x
    squared = tl.sum(sums, 1)
    zero = squared == 0
    inverse = 1.0 / tl.sqrt(tl.where(zero, 1.0, squared))
    tl.store(no_direction + n, zero.to(tl.int8), mask=n < N)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (n < N)[:, None] & (c < C)[None, :]
        x = tl.load(at + c.to(tl.int64)[None, :] * column, mask=mask, other=0.0).to(tl.float64)
        tl.store(out + n.to(tl.int64)[:, None] * C + c[None, :], (x * inverse[:, None]).to(tl.float32), mask=mask)


@triton.jit
def split_bank(count, P, programs, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr):
    """The blocks of rows, and the splits of the bank with which few rows keep all programs busy."""
    blocks = tl.cdiv(count, BLOCK_Q)
    splits = tl.minimum(programs // tl.maximum(blocks, 1), tl.cdiv(P, BLOCK_P))
    return blocks, tl.maximum(splits, 1)


@triton.jit
def brute_force_kernel(
    features, prototypes, no_direction_f, no_direction_p, uncertified, count, keys,
    M, P, C, f_row, f_column, p_row, p_column,
    UNCERTIFIED: tl.constexpr, METRIC: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The K least keys per row and split; of the rows that ``uncertified[:count]`` lists, or of all."""
    rows = M
    if UNCERTIFIED:
        rows = tl.load(count)
    blocks, splits = split_bank(rows, P, tl.num_programs(0), BLOCK_Q, BLOCK_P)
    tiles = tl.cdiv(P, BLOCK_P)
    f_step, p_step = tl.cast(f_column, tl.int64), tl.cast(p_column, tl.int64)
    for item in range(tl.program_id(0), blocks * splits, tl.num_programs(0)):
        place = (item // splits) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        exists = place < rows
        m = place
        if UNCERTIFIED:
            m = tl.load(uncertified + place, mask=exists, other=0)
        feature = features + m.to(tl.int64) * f_row
        directionless = tl.zeros((BLOCK_Q,), tl.int1)
        if METRIC == COSINE:
            directionless = tl.load(no_direction_f + m, mask=exists, other=0) != 0
        best = first_keys(BLOCK_Q, K, SIZE)
        split = (item % splits).to(tl.int64)
        for tile in range((tiles * split // splits).to(tl.int32), (tiles * (split + 1) // splits).to(tl.int32)):
            p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
            prototype = prototypes + p.to(tl.int64) * p_row
            squared = tl.zeros((BLOCK_Q, BLOCK_P), tl.float32)
            for start in range(0, C, PARTIAL):
                part = tl.zeros((BLOCK_Q, BLOCK_P), tl.float32)
                for j in tl.static_range(PARTIAL):
                    c = start + j
                    f = tl.load(feature + c * f_step, mask=place < tl.where(c < C, rows, 0), other=0.0)
                    x = tl.load(prototype + c * p_step, mask=p < tl.where(c < C, P, 0), other=0.0)
                    difference = f.to(tl.float32)[:, None] - x.to(tl.float32)[None, :]
                    part += difference * difference
                squared += part
            if METRIC == COSINE:
                zero = tl.load(no_direction_p + p, mask=p < P, other=0) != 0
                squared = tl.where(directionless[:, None] | zero[None, :], 2.0, squared)
            key = pack_key(squared, p[None, :])
            key = tl.where((p < P)[None, :] & exists[:, None], key, LAST + SIZE)
            best = insert_keys(best, key, SIZE)
        to = (item * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
        tl.store(keys + to[:, None] * SIZE + tl.arange(0, SIZE)[None, :], best)


@triton.jit
def merge_kernel(
    keys, uncertified, count, distances, indices, M, P, programs,
    UNCERTIFIED: tl.constexpr, METRIC: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merges the splits of ``brute_force_kernel``, which ran with ``programs`` programs."""
    rows = M
    if UNCERTIFIED:
        rows = tl.load(count)
    blocks, splits = split_bank(rows, P, programs, BLOCK_Q, BLOCK_P)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        lane = tl.arange(0, BLOCK_Q)
        exists = block * BLOCK_Q + lane < rows
        best = first_keys(BLOCK_Q, K, SIZE)
        for split in range(splits):
            at = ((block * splits + split) * BLOCK_Q + lane).to(tl.int64)
            key = tl.load(keys + at[:, None] * SIZE + tl.arange(0, SIZE)[None, :])
            key = tl.where((key >= 0) & (key < LAST), key, LAST + SIZE)  # a list's filling must not enter another list
            best = insert_keys(best, key, SIZE)
        m = block * BLOCK_Q + lane
        if UNCERTIFIED:
            m = tl.load(uncertified + m, mask=exists, other=0)
        store_nearest(best, distances, indices, m, exists, K, SIZE, METRIC)
