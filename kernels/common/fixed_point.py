"""Sums in 64-bit fixed point: integers add up to the same bits in whatever order atomic additions happen."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_fixed_point(to, value, scale, mask):
    """Adds ``scale * value``, rounded to the nearest integer, to the int64 at ``to``.

    The product is in float64. When the scale is a power of two, only the conversion to an integer rounds. The host
    chooses the scale so that no sum overflows.
    """
    tl.atomic_add(to, tl.floor(value.to(tl.float64) * scale + 0.5).to(tl.int64), mask=mask, sem="relaxed")
