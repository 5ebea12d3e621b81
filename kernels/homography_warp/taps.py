"""Where target pixels sample the source: the projected points and, per axis, taps with weights and slopes."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.common.geometry import project


@triton.jit
def locate(homography, x, y, last_x, last_y, coordinate_limit):
    """``sx, sy, Z, sampled``: the projected points, and which are in front and within the limit; others are (0, 0)."""
    sx, sy, Z, front = project(homography, x.to(tl.float32), y.to(tl.float32))
    # a NaN fails every comparison, so it never becomes an index
    sampled = front & (sx >= -coordinate_limit) & (sx <= last_x + coordinate_limit)
    sampled &= (sy >= -coordinate_limit) & (sy <= last_y + coordinate_limit)
    return tl.where(sampled, sx, 0.0), tl.where(sampled, sy, 0.0), Z, sampled


@triton.jit
def clamp(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def round_to_even(x):
    """The nearest integer; of two, the even one."""
    down = tl.floor(x)
    above = x - down
    odd = down != 2 * tl.floor(down / 2)
    return tl.where((above > 0.5) | ((above == 0.5) & odd), down + 1, down)


@triton.jit
def pad(s, last, PADDING: tl.constexpr):
    """The coordinate that padding leads to, and its derivative, which is 0 on the border and beyond (grid_sample)."""
    slope = tl.zeros_like(s) + 1
    if PADDING == "zeros":
        s = clamp(s, -4.0, last + 4)
    else:
        if PADDING == "reflection":
            period = 2 * (last + 1)
            distance = tl.abs(s + 0.5)
            ahead = distance - tl.floor(distance / period) * period
            back = period - ahead
            slope = tl.where((ahead > back) != (s < -0.5), -1.0, 1.0)
            s = tl.minimum(ahead, back) - 0.5
        slope = tl.where((s > 0) & (s < last), slope, 0.0)
        s = clamp(s, 0.0, last)
    return s, slope


@triton.jit
def cubic(f, k: tl.constexpr):
    """The weight of tap k of four, and its slope: cubic convolution with a = -3/4, as grid_sample has it."""
    d = f + (1 - k) if k < 2 else (k - 1) - f
    if k == 1 or k == 2:
        weight, slope = (1.25 * d - 2.25) * d * d + 1, (3.75 * d - 4.5) * d
    else:
        weight, slope = ((-0.75 * d + 3.75) * d - 6) * d + 3, (-2.25 * d + 7.5) * d - 6
    return weight, slope if k < 2 else -slope


@triton.jit
def axis_tap(s, last, k: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr):
    """Tap k along one axis: its index, whether that lies inside, its weight, and d weight / d s."""
    if MODE == "bicubic":
        s = s if PADDING == "reflection" else clamp(s, -8.0, last + 8)  # beyond, nothing changes with s
        left = tl.floor(s)
        weight, slope = cubic(s - left, k)
        at, _ = pad(left + (k - 1), last, PADDING)
    else:
        s, slope = pad(s, last, PADDING)
        if MODE == "nearest":
            at, weight, slope = round_to_even(s), tl.zeros_like(s) + 1, tl.zeros_like(s)
        else:
            left = tl.floor(s)
            at = left + k
            weight = s - left if k else 1 - (s - left)
            slope = slope if k else -slope
    return at.to(tl.int32), (at >= 0) & (at <= last), weight, slope
