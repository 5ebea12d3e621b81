"""Rows relative to a center, rounded to float16, with what rounding changed.

Rows are measured in units of a power of two, such that typical elements are about 2^-6 in size: float16 then holds
elements up to 2^22 times as large, and rounds what is 2^8 times as small to 2^-25 at worst. What a row loses by
rounding is summed up, not estimated.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

UNIT = tl.constexpr(2.0**-24)  # relative rounding error of one float32 operation
SAMPLE = 64  # rows that determine the center and the scale: any rows give the same result
# Positions in the statistics: one over the unit of length, the typical length, the worst loss.
INVERSE, TYPICAL, WORST = (tl.constexpr(i) for i in range(3))
STATISTICS = tl.constexpr(4)  # their number, rounded up to a power of two
LARGEST = tl.constexpr(65000.0)  # a larger element does not fit float16


@triton.jit
def _sample(rows, n, c, N, C, row, column):
    """The elements of the sampled rows ``n`` in float64; elements that are not finite become zero."""
    mask = (n < N)[:, None] & (c < C)[None, :]
    at = rows + n.to(tl.int64)[:, None] * row + c.to(tl.int64)[None, :] * column
    x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    return tl.where(tl.abs(x) < 1e37, x, 0.0).to(tl.float64)


@triton.jit
def _at(x, i, SIZE: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, SIZE) == i, x, 0.0), 0)


@triton.jit
def survey_kernel(rows, center, statistics, count, N, C, row, column, SIZE: tl.constexpr, BLOCK_C: tl.constexpr):
    """Writes the center ``(C,)`` and the statistics of sampled rows, and clears the worst loss and ``count``."""
    taken = tl.minimum(N, SIZE)
    lane = tl.arange(0, SIZE)
    n = tl.where(lane < taken, lane * (N // taken), N)
    squares = tl.zeros((SIZE,), tl.float64)
    for start in range(0, C, BLOCK_C):
        x = _sample(rows, n, start + tl.arange(0, BLOCK_C), N, C, row, column)
        squares += tl.sum(x * x, 1)
    # a row far longer than others would move the center away from them
    ordered = tl.sort(tl.where(lane < taken, squares, float("inf")))
    ordinary = (lane < taken) & (squares <= 16 * _at(tl.where(ordered < float("inf"), ordered, 0.0), taken // 2, SIZE))
    weight = ordinary.to(tl.float64) / tl.sum(ordinary.to(tl.float64), 0)
    squares = tl.zeros((SIZE,), tl.float64)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        x = _sample(rows, n, c, N, C, row, column)
        mean = tl.sum(x * weight[:, None], 0).to(tl.float32)
        tl.store(center + c, mean, mask=c < C)
        x -= mean.to(tl.float64)[None, :]
        squares += tl.sum(x * x, 1)
    ordered = tl.sort(tl.where(lane < taken, squares, float("inf")))
    median = _at(tl.where(ordered < float("inf"), ordered, 0.0), taken // 2, SIZE)
    median = tl.where(median > 0, median, tl.max(tl.where(lane < taken, squares, 0.0), 0))
    length = tl.sqrt(median).to(tl.float32)
    element = tl.minimum(tl.maximum(length / tl.sqrt_rn(tl.maximum(C, 1).to(tl.float32)), 1e-30), 1e30)
    inverse = 1.0 / ((element.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True) * 64)
    tl.store(statistics + INVERSE, inverse)
    tl.store(statistics + TYPICAL, tl.maximum(length * inverse, 1e-6))
    tl.store(statistics + WORST, 0.0)
    tl.store(count, 0)


@triton.jit
def round_rows(rows, center, rounded, inverse, n, N, C, row, column, WIDTH, BLOCK_N: tl.constexpr,
                BLOCK_C: tl.constexpr):  # fmt: skip
    """Writes rounded rows; returns the squared lengths of the rows and of their rounding errors, and which rows fit.

    A row with an element that float16 cannot hold does not fit, and is written as zeros.
    """
    squares = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    losses = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    fits = tl.full((BLOCK_N, BLOCK_C), 1, tl.int32)
    to = rounded + n.to(tl.int64)[:, None] * WIDTH
    for start in range(0, WIDTH, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = (n < N)[:, None] & (c < C)[None, :]
        at = rows + n.to(tl.int64)[:, None] * row + c.to(tl.int64)[None, :] * column
        x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, x - tl.load(center + c, mask=c < C, other=0.0)[None, :], 0.0) * inverse
        fit = tl.abs(x) <= LARGEST
        half = tl.where(fit, x, 0.0).to(tl.float16)
        tl.store(to + c[None, :], half, mask=(c < WIDTH)[None, :])
        loss = x - half.to(tl.float32)
        squares += x * x
        losses += loss * loss
        fits &= fit.to(tl.int32)
    fit = tl.min(fits, 1)
    if tl.min(fit, 0) == 0:
        for start in range(0, WIDTH, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            zero = tl.zeros((BLOCK_N, BLOCK_C), tl.float16)
            tl.store(to + c[None, :], zero, mask=(c < WIDTH)[None, :] & (fit == 0)[:, None])
    return tl.sum(squares, 1), tl.sum(losses, 1), fit != 0


@triton.jit
def lost(losses, length, C):
    """A bound on how far a row was moved: by rounding to float16, and by float32 arithmetic when it was centered."""
    return tl.sqrt_rn(losses) * (1 + (C + 256) * UNIT) + length * (2 * UNIT)
