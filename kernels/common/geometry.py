"""What the Triton kernels share: where target pixels land in a source view, rounded as plain torch rounds it."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def product(a, b):
    """``a * b`` in float32, rounded by itself: the compiler may not fuse it with an addition that follows."""
    if INTERPRETED:
        return a * b
    else:
        return tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def project(homography, x, y):
    """``sx, sy, Z, front`` of float32 pixels; Z is 1 where the point is not in front, and sx and sy mean nothing."""
    h = homography
    X = product(tl.load(h + 0), x) + product(tl.load(h + 1), y) + tl.load(h + 2)
    Y = product(tl.load(h + 3), x) + product(tl.load(h + 4), y) + tl.load(h + 5)
    Z = product(tl.load(h + 6), x) + product(tl.load(h + 7), y) + tl.load(h + 8)
    front = Z > 0  # not so for a NaN
    Z = tl.where(front, Z, 1.0)
    return tl.div_rn(X, Z), tl.div_rn(Y, Z), Z, front


@triton.jit
def project_backward(gx, gy, sx, sy, Z):
    """The gradient of ``H (x, y, 1)`` from that of the projected point; H's is its outer product with ``(x, y, 1)``."""
    X, Y = gx / Z, gy / Z
    return X, Y, -(X * sx + Y * sy)
