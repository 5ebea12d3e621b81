"""Rounds the bank and the features to float16 for screening, with bounds on the error of screening.

With A = |f|, B = |p| of centered rows, the squared distance is A^2 + 2 t, t = B^2 / 2 - <f, p>. Screening computes
v = a B^2 / 2 - <rounded f, rounded p>, and t >= v - g for every prototype, as follows.
- Rounding: |<f, p> - <rounded f, rounded p>| <= |f - rounded f| B + A |p - rounded p| <= A (x + y) B + A y D, where
  x = |f - rounded f| / A, and y is the largest |p - rounded p| / (B + D) of the bank; D keeps rows near the center,
  of which rounding leaves little, from determining y.
- The product is a sum of C float32 terms; each step of a tensor core may cut off what is below 2^-23 of its largest
  term, and no partial sum exceeds A B. So its error is at most (1.1 C + 32) 2^-23 A B.
- v is rounded, and its last bits hold a cell's number: 2^-16 (B^2 / 2 + A B). B^2 is rounded: z B^2, where
  z = (C / 16 + 128) 2^-24.
Together A B E + A y D + B^2 (z + 2^-17). As A B <= (w B^2 + A^2 / w) / 2 for any w > 0, a = 1 - 2 z - 2^-16 - E w
and g = E A^2 / (2 w) + A y D hold for all prototypes; w = A / R is best for prototypes of length R, the bank's median.
Rounding in the computation of these bounds is covered by 1 % more of E and y.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.common.rounding import INVERSE, TYPICAL, UNIT, WORST, lost, round_rows

FAR = tl.constexpr(2.0**100)  # half the squared length of a prototype that is never among the nearest
BEYOND = tl.constexpr(2.0**99)  # a screened value from here on belongs to no prototype that may be near
REACH = tl.constexpr(16000.0)  # the longest feature that is screened: a quarter of the shortest row that does not fit


@triton.jit
def pack_bank_kernel(
    rows, center, statistics, rounded, offset, N, C, row, column, WIDTH, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Writes the rounded bank and ``offset``, half the squared lengths; rows past the end are beyond every limit."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inverse, typical = tl.load(statistics + INVERSE), tl.load(statistics + TYPICAL)
    square, losses, fit = round_rows(rows, center, rounded, inverse, n, N, C, row, column, WIDTH, BLOCK_N, BLOCK_C)
    regular = fit & (n < N)
    length = tl.sqrt_rn(tl.where(regular, square, 0.0))
    loss = lost(tl.where(regular, losses, 0.0), length, C) / (length + typical / 16) * 1.01
    # integers order as non-negative floats do
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
    """Writes rounded features; per feature a, g (infinite where it cannot be screened) and a lower bound on A^2."""
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
