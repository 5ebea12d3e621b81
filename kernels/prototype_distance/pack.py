"""Rows relative to the bank's centre, in float16, with bounds on what rounding changed.

Rows are measured in units of a power of two, such that elements of the bank are about 2^-6 in size: float16 then
holds elements up to 2^22 times as large, and rounds what is 2^8 times as small to 2^-25 at worst. What a row loses
by rounding is summed up, not estimated.

With A = |f|, B = |p| of centred rows, the squared distance is A^2 + 2 t, t = B^2 / 2 - <f, p>. Screening computes
v = a B^2 / 2 - <rounded f, rounded p>, and t >= v - g for every prototype, as follows.
- Rounding: |<f, p> - <rounded f, rounded p>| <= |f - rounded f| B + A |p - rounded p| <= A (x + y) B + A y D, where
  x = |f - rounded f| / A, and y is the largest |p - rounded p| / (B + D) of the bank; D keeps rows near the centre,
  of which rounding leaves little, from deciding y.
- The product is a sum of C float32 terms, of which each step of a tensor core may cut off what is below 2^-23 of its
  largest one; no partial sum exceeds A B. So its error is (1.1 C + 32) 2^-23 A B at most.
- v is rounded, and its last bits name a cell: 2^-16 (B^2 / 2 + A B). B^2 is rounded: z B^2, z = (C / 16 + 128) 2^-24.
Together A B E + A y D + B^2 (z + 2^-17). As A B <= (w B^2 + A^2 / w) / 2 for any w > 0, a = 1 - 2 z - 2^-16 - E w
and g = E A^2 / (2 w) + A y D hold for all prototypes; w = A / R is best for prototypes of length R, the bank's median.
Products of few roundings are covered by 1 % more of E and y.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

UNIT = tl.constexpr(2.0**-24)  # rounding error of a float
SAMPLE = 64  # rows of the bank that tell its centre and scale: any give the same result
# statistics: floats, then integers
INVERSE, TYPICAL, WORST, STATISTICS = (tl.constexpr(i) for i in (0, 1, 2, 4))
FAR = tl.constexpr(2.0**100)  # of a prototype that is never among the nearest, as half its squared length
BEYOND = tl.constexpr(2.0**99)
LARGEST = tl.constexpr(65000.0)  # a larger element does not fit float16
REACH = tl.constexpr(16000.0)  # of a feature that is screened: a quarter of the shortest row that does not fit


@triton.jit
def _sample(rows, n, c, N, C, row, column):
    """Finite elements of the sample in float64; others are zero."""
    mask = (n < N)[:, None] & (c < C)[None, :]
    at = rows + n.to(tl.int64)[:, None] * row + c.to(tl.int64)[None, :] * column
    x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    return tl.where(tl.abs(x) < 1e37, x, 0.0).to(tl.float64)


@triton.jit
def _at(x, i, SIZE: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, SIZE) == i, x, 0.0), 0)


@triton.jit
def survey_kernel(rows, center, statistics, count, N, C, row, column, SIZE: tl.constexpr, BLOCK_C: tl.constexpr):
    """The centre ``(C,)``, the scale, the median length in that scale, and zeros where others will count."""
    taken = tl.minimum(N, SIZE)
    lane = tl.arange(0, SIZE)
    n = tl.where(lane < taken, lane * (N // taken), N)
    squares = tl.zeros((SIZE,), tl.float64)
    for start in range(0, C, BLOCK_C):
        x = _sample(rows, n, start + tl.arange(0, BLOCK_C), N, C, row, column)
        squares += tl.sum(x * x, 1)
    # a row far longer than others would move the centre away from them
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
    """Writes rounded rows; returns their squared length, that of what rounding changed, and which fit float16."""
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
    """A bound on how far a centred row was moved: by rounding, and by float32 when it was centred."""
    return tl.sqrt_rn(losses) * (1 + (C + 256) * UNIT) + length * (2 * UNIT)


@triton.jit
def pack_bank_kernel(
    rows, center, statistics, rounded, offset, N, C, row, column, WIDTH, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Rounded rows, and ``offset``, half their squared length; rows past the end are beyond reach."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inverse, typical = tl.load(statistics + INVERSE), tl.load(statistics + TYPICAL)
    square, losses, fit = round_rows(rows, center, rounded, inverse, n, N, C, row, column, WIDTH, BLOCK_N, BLOCK_C)
    regular = fit & (n < N)
    length = tl.sqrt_rn(tl.where(regular, square, 0.0))
    loss = lost(tl.where(regular, losses, 0.0), length, C) / (length + typical / 16) * 1.01
    # as integers, which order as floats >= 0 do
    tl.atomic_max((statistics + WORST).to(tl.pointer_type(tl.int32)), tl.max(loss, 0).to(tl.int32, bitcast=True))
    # a finite row that does not fit is rounded to zero: t >= B^2 / 2 - A B >= B^2 / 4 for all features within REACH
    huge = (n < N) & (square == square)
    half = tl.where(regular, square * 0.5, tl.where(huge, tl.minimum(square * 0.25, FAR), FAR))
    tl.store(offset + n, half)


@triton.jit
def pack_features_kernel(
    rows, center, statistics, rounded, slope, margin, square_out, N, C, row, column, WIDTH,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rounded rows, and for each a, g (infinite where it is not to be screened) and a lower bound of A^2."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inverse, typical, worst = (
        tl.load(statistics + INVERSE), tl.load(statistics + TYPICAL), tl.load(statistics + WORST),
    )  # fmt: skip
    square, losses, fit = round_rows(rows, center, rounded, inverse, n, N, C, row, column, WIDTH, BLOCK_N, BLOCK_C)
    z = (C * 0.0625 + 128) * UNIT
    length = tl.sqrt_rn(square) * (1 + z)
    fit &= length <= REACH  # not NaN
    square, length = tl.where(fit, square, 0.0), tl.where(fit, length, 0.0)
    loss = tl.where(length > 0, lost(tl.where(fit, losses, 0.0), length, C) / tl.where(length > 0, length, 1.0), 0.0)
    E = (loss + worst + (1.1 * C + 32) * 2 * UNIT + 256 * UNIT) * 1.01
    w = tl.minimum(tl.maximum(length / typical, 0.0009765625), 0.25 / E)
    a = (1 - 2 * z - 256 * UNIT) - E * w
    g = (E * length * length / (2 * w) + length * worst * typical * 0.0625) * 1.0001 + 1e-30
    tl.store(slope + n, a)
    tl.store(margin + n, tl.where(fit, g, float("inf")))
    tl.store(square_out + n, square * (1 - 2 * z))
