"""Gradients of the distances: weights of all pairs, then sums over the pairs of each feature and each prototype.

With feature f and prototype p the gradients are
    df = own_f (f - p) + other_f p,    dp = own_p (p - f) + other_p f,
where ``other`` is zero except for the cosine. A pair is one entry (m, j) of the indices, numbered m * K + j.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from vsad.kernels.prototype_distance.keys import COSINE, SQEUCLIDEAN


@triton.jit
def _load(rows, n, c, exists, C, row, column):
    at = rows + n.to(tl.int64)[:, None] * row + c.to(tl.int64)[None, :] * column
    return tl.load(at, mask=exists[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _names_one(index, P):
    """Whether a saved index names a prototype. One that does not, which only a caller of the registered backward can
    give, has no gradient: on a GPU it cannot raise an error.
    """
    return (index >= 0) & (index < P)


@triton.jit
def weights_kernel(
    grad, features, prototypes, indices, weights, pairs, K, P, C, f_row, f_column, p_row, p_column,
    METRIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``weights (4, pairs)``: own_f, own_p, other_f, other_p."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = n < pairs
    index = tl.load(indices + n, mask=exists, other=0)
    named = exists & _names_one(index, P)
    g = tl.load(grad + n, mask=named, other=0.0).to(tl.float32)
    first = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    second = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    third = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        f = _load(features, n // K, c, named, C, f_row, f_column)
        p = _load(prototypes, index, c, named, C, p_row, p_column)
        if METRIC == COSINE:
            first += f * f
            second += p * p
            third += f * p
        else:
            first += (f - p) * (f - p)
    if METRIC == COSINE:
        ff, pp = tl.sum(first, 1), tl.sum(second, 1)
        direction = (ff != 0) & (pp != 0)
        ff, pp = tl.where(direction, ff, 1.0), tl.where(direction, pp, 1.0)
        norms = tl.sqrt_rn(ff) * tl.sqrt_rn(pp)
        cosine = tl.sum(third, 1) / norms
        moves = direction & ~(cosine > 1)  # the distance is clamped beyond 1
        own_f = tl.where(moves, g * cosine / ff, 0.0)
        own_p = tl.where(moves, g * cosine / pp, 0.0)
        cross = tl.where(moves, g / norms, 0.0)
        tl.store(weights + tl.cast(pairs, tl.int64) * 2 + n, own_f - cross, mask=exists)
        tl.store(weights + tl.cast(pairs, tl.int64) * 3 + n, own_p - cross, mask=exists)
    else:
        squared = tl.sum(first, 1)
        own_f = g * 2
        if METRIC != SQEUCLIDEAN:  # The gradient is zero at distance zero.
            own_f = tl.where(squared == 0, 0.0, g / tl.sqrt_rn(tl.where(squared == 0, 1.0, squared)))
        own_p = own_f
    tl.store(weights + n, own_f, mask=exists)
    tl.store(weights + pairs + n, own_p, mask=exists)


@triton.jit
def grad_features_kernel(
    features, prototypes, indices, weights, out, M, pairs, K, P, C, f_row, f_column, p_row, p_column,
    METRIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_N features: sums over their K pairs each."""
    m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = m < M
    f = _load(features, m, c, exists, C, f_row, f_column)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for j in range(K):
        pair = m.to(tl.int64) * K + j
        index = tl.load(indices + pair, mask=exists, other=0)
        p = _load(prototypes, index, c, exists & _names_one(index, P), C, p_row, p_column)
        total += tl.load(weights + pair, mask=exists, other=0.0)[:, None] * (f - p)
        if METRIC == COSINE:
            total += tl.load(weights + tl.cast(pairs, tl.int64) * 2 + pair, mask=exists, other=0.0)[:, None] * p
    to = out + m.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=exists[:, None] & (c < C)[None, :])


@triton.jit
def grad_prototypes_kernel(
    features, prototypes, sorted_pairs, begin, weights, out, pairs, K, C, f_row, f_column, p_row, p_column,
    METRIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of one prototype p: a sum over ``sorted_pairs[begin[p]:begin[p + 1]]``, in the order of features."""
    index = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    first, last = tl.load(begin + index).to(tl.int32), tl.load(begin + index + 1).to(tl.int32)
    at = prototypes + index.to(tl.int64) * p_row + c.to(tl.int64) * p_column
    p = tl.load(at, mask=c < C, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(first, last, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        exists = n < last
        pair = tl.load(sorted_pairs + n, mask=exists, other=0)
        f = _load(features, pair // K, c, exists, C, f_row, f_column)
        own = tl.load(weights + pairs + pair, mask=exists, other=0.0)
        part = own[:, None] * (p[None, :] - f)
        if METRIC == COSINE:
            part += tl.load(weights + tl.cast(pairs, tl.int64) * 3 + pair, mask=exists, other=0.0)[:, None] * f
        total += tl.sum(part, 0)
    tl.store(out + index.to(tl.int64) * C + c, total.to(out.dtype.element_ty), mask=c < C)
