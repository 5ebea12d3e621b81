"""Triton kernels of greedy_coreset: one launch per pick, and nothing waits for the host.

A launch first finds its pick: the greatest of the keys that the programs of the previous launch left, one per program.
Then it compares the pick with all points: in float16, which bounds the distance from below; only points that may be
nearer to it than to all earlier picks are measured, in float64 as the reference does. A squared distance has 24 bits
then, so that the index fits below them in a 64-bit key, and one maximum finds the farthest point and, of equals, the
lowest index.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.common.rounding import INVERSE, UNIT, lost, round_rows

EXACT_C = tl.constexpr(32)  # channels measured at once
INDEX_BITS = tl.constexpr((1 << 29) - 1)  # the bits of a key below a squared distance of 24 bits
LOWEST = tl.constexpr(-0x7FFFFFFFFFFFFFFF)  # below the key of every point


@triton.jit
def begin_kernel(
    features, center, statistics, rounded, radius, nearest, M, C, row, column, WIDTH,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Writes rounded points, how far rounding moved them (infinity where they do not fit), and no near pick."""
    m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inverse = tl.load(statistics + INVERSE)
    square, losses, fit = round_rows(features, center, rounded, inverse, m, M, C, row, column, WIDTH, BLOCK_N, BLOCK_C)
    length = tl.sqrt_rn(tl.where(fit, square, 0.0))
    moved = lost(tl.where(fit, losses, 0.0), length, C) * 1.0001
    tl.store(radius + m, tl.where(fit, moved, float("inf")), mask=m < M)
    finite = tl.full((BLOCK_N, BLOCK_C), 1, tl.int32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        at = features + m.to(tl.int64)[:, None] * row + c.to(tl.int64)[None, :] * column
        x = tl.load(at, mask=(m < M)[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        finite &= (tl.abs(x) < float("inf")).to(tl.int32)
    tl.store(nearest + m, tl.where(tl.min(finite, 1) != 0, float("inf"), 0.0).to(tl.float64), mask=m < M)


@triton.jit
def _measure(features, m, pick, needed, C, row, column, BLOCK_M: tl.constexpr):
    """Squared distances in float64, rounded to 24 bits."""
    sums = tl.zeros((BLOCK_M, EXACT_C), tl.float64)
    for start in range(0, C, EXACT_C):
        wide = (start + tl.arange(0, EXACT_C)).to(tl.int64)
        at = features + wide[None, :] * column
        mask = needed[:, None] & (wide < C)[None, :]
        x = tl.load(at + m.to(tl.int64)[:, None] * row, mask=mask, other=0.0).to(tl.float64)
        y = tl.load(at + pick.to(tl.int64) * row, mask=(wide < C)[None, :], other=0.0).to(tl.float64)
        sums += tl.where(mask, (x - y) * (x - y), 0.0)
    bits = tl.sum(sums, 1).to(tl.int64, bitcast=True)
    return ((bits + (1 << 28)) & -(1 << 29)).to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=["i"])
def pick_kernel(
    features, rounded, radius, statistics, nearest, leaders, picks, i, M, C, row, column, programs,
    WIDTH: tl.constexpr, LEADERS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Makes pick number ``i``; writes the key of the farthest point of every program afterwards.

    ``leaders (2, programs)`` holds the keys that this launch reads and those that it writes, in turn.
    """
    program = tl.program_id(0)
    lane = tl.arange(0, LEADERS)
    before = leaders + ((i + 1) % 2) * programs
    first = tl.max(tl.load(before + lane, mask=lane < programs, other=LOWEST), 0)
    pick = (first & INDEX_BITS) ^ INDEX_BITS
    if program == 0:
        tl.store(picks + i, pick)
    inverse = tl.load(statistics + INVERSE).to(tl.float64)
    pick_radius = tl.load(radius + pick)

    farthest = tl.full((BLOCK_M,), LOWEST, tl.int64)
    blocks = tl.cdiv(M, BLOCK_M)
    for block in range(program, blocks, programs):
        m = block * BLOCK_M + tl.arange(0, BLOCK_M)
        exists = m < M
        sums = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for start in range(0, WIDTH, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            x = tl.load(rounded + m.to(tl.int64)[:, None] * WIDTH + c[None, :]).to(tl.float32)
            y = tl.load(rounded + pick * WIDTH + c).to(tl.float32)
            sums += (x - y[None, :]) * (x - y[None, :])
        near = tl.load(nearest + m, mask=exists, other=-1.0)
        # |x - y| >= |rounded x - rounded y| minus how far rounding moved both; the factors cover rounding here
        apart = tl.sqrt_rn(tl.sum(sums, 1)) * (1 - (WIDTH * 0.0625 + 256) * UNIT)
        apart = tl.maximum(apart - tl.load(radius + m, mask=exists, other=0.0) - pick_radius, 0.0)
        needed = ~(apart * apart * 0.99999 >= (near * inverse * inverse).to(tl.float32) * 1.00001) & exists
        if tl.max(needed.to(tl.int32), 0) > 0:
            squared = _measure(features, m, pick, needed, C, row, column, BLOCK_M)
            near = tl.where(needed & (squared < near), squared, near)  # NaN is no distance
            tl.store(nearest + m, near, mask=needed)
        near = tl.where(m == pick, -1.0, near)  # never again, even where all distances are zero
        tl.store(nearest + m, near, mask=m == pick)
        key = near.to(tl.int64, bitcast=True) | (m ^ INDEX_BITS).to(tl.int64)
        farthest = tl.maximum(farthest, tl.where(exists, key, LOWEST))
    tl.store(leaders + (i % 2) * programs + program, tl.max(farthest, 0))
