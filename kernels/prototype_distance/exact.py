"""Every feature against every prototype by direct difference: small problems, and what screening cannot certify."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.prototype_distance.keys import COSINE, LAST, first_keys, insert_keys, pack_key, store_nearest

TOGETHER = tl.constexpr(8)  # channels of a partial sum: a sum of C terms rounds at most C / 8 + 8 times


@triton.jit
def normalize_kernel(rows, out, flat, N, C, row, column, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows of unit length, and which have no length; in float64, which squares neither overflow nor underflow."""
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
    tl.store(flat + n, zero.to(tl.int8), mask=n < N)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (n < N)[:, None] & (c < C)[None, :]
        x = tl.load(at + c.to(tl.int64)[None, :] * column, mask=mask, other=0.0).to(tl.float64)
        tl.store(out + n.to(tl.int64)[:, None] * C + c[None, :], (x * inverse[:, None]).to(tl.float32), mask=mask)


@triton.jit
def cut_chunks(count, P, programs, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr):
    """Blocks of rows, and chunks that the bank is cut into so that few rows keep all programs busy."""
    blocks = tl.cdiv(count, BLOCK_Q)
    chunks = tl.minimum(programs // tl.maximum(blocks, 1), tl.cdiv(P, BLOCK_P))
    return blocks, tl.maximum(chunks, 1)


@triton.jit
def exact_kernel(
    features, prototypes, flat_f, flat_p, listed, count, keys,
    M, P, C, f_row, f_column, p_row, p_column,
    LISTED: tl.constexpr, METRIC: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The K least keys of every row and chunk; of the rows that ``listed[:count]`` names, or of all."""
    rows = M
    if LISTED:
        rows = tl.load(count)
    blocks, chunks = cut_chunks(rows, P, tl.num_programs(0), BLOCK_Q, BLOCK_P)
    tiles = tl.cdiv(P, BLOCK_P)
    f_step, p_step = tl.cast(f_column, tl.int64), tl.cast(p_column, tl.int64)
    for item in range(tl.program_id(0), blocks * chunks, tl.num_programs(0)):
        place = (item // chunks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        exists = place < rows
        m = place
        if LISTED:
            m = tl.load(listed + place, mask=exists, other=0)
        feature = features + m.to(tl.int64) * f_row
        nowhere = tl.zeros((BLOCK_Q,), tl.int1)
        if METRIC == COSINE:
            nowhere = tl.load(flat_f + m, mask=exists, other=0) != 0
        best = first_keys(BLOCK_Q, K, SIZE)
        chunk = (item % chunks).to(tl.int64)
        for tile in range((tiles * chunk // chunks).to(tl.int32), (tiles * (chunk + 1) // chunks).to(tl.int32)):
            p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
            prototype = prototypes + p.to(tl.int64) * p_row
            squared = tl.zeros((BLOCK_Q, BLOCK_P), tl.float32)
            for start in range(0, C, TOGETHER):
                part = tl.zeros((BLOCK_Q, BLOCK_P), tl.float32)
                for j in tl.static_range(TOGETHER):
                    c = start + j
                    f = tl.load(feature + c * f_step, mask=place < tl.where(c < C, rows, 0), other=0.0)
                    x = tl.load(prototype + c * p_step, mask=p < tl.where(c < C, P, 0), other=0.0)
                    difference = f.to(tl.float32)[:, None] - x.to(tl.float32)[None, :]
                    part += difference * difference
                squared += part
            if METRIC == COSINE:
                zero = tl.load(flat_p + p, mask=p < P, other=0) != 0
                squared = tl.where(nowhere[:, None] | zero[None, :], 2.0, squared)
            key = pack_key(squared, p[None, :])
            key = tl.where((p < P)[None, :] & exists[:, None], key, LAST + SIZE)
            best = insert_keys(best, key, SIZE)
        to = (item * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
        tl.store(keys + to[:, None] * SIZE + tl.arange(0, SIZE)[None, :], best)


@triton.jit
def finish_kernel(
    keys, listed, count, distances, indices, M, P, programs,
    LISTED: tl.constexpr, METRIC: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merges the chunks of ``exact_kernel``, which ran with ``programs`` programs."""
    rows = M
    if LISTED:
        rows = tl.load(count)
    blocks, chunks = cut_chunks(rows, P, programs, BLOCK_Q, BLOCK_P)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        lane = tl.arange(0, BLOCK_Q)
        exists = block * BLOCK_Q + lane < rows
        best = first_keys(BLOCK_Q, K, SIZE)
        for chunk in range(chunks):
            at = ((block * chunks + chunk) * BLOCK_Q + lane).to(tl.int64)
            key = tl.load(keys + at[:, None] * SIZE + tl.arange(0, SIZE)[None, :])
            key = tl.where((key >= 0) & (key < LAST), key, LAST + SIZE)  # what filled a list up must not fill another
            best = insert_keys(best, key, SIZE)
        m = block * BLOCK_Q + lane
        if LISTED:
            m = tl.load(listed + m, mask=exists, other=0)
        store_nearest(best, distances, indices, m, exists, K, SIZE, METRIC)
