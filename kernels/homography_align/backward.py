"""Triton kernel of homography_align, backward: everything is recomputed.

The kernel goes through all slots twice: first for the softmax and ``<grad_out, out>``, then for the gradients. What the
forward found would not do: it sums in another order, and where logits are large, so are their rounding errors.

The gradient of query is a sum within a program; those of homography and bias are partial sums per program, which the
launcher adds up in a fixed order. Those of key and value are scattered atomically: as float32, or, when every run must
give the same bits, as 64-bit integers, whose sum does not depend on the order.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005 (Triton's tuples grow by concatenation)
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from vsad.kernels.common.fixed_point import add_fixed_point
from vsad.kernels.common.geometry import project_backward
from vsad.kernels.homography_align.window import (
    add_scaled,
    block_of,
    cell_inside,
    cells_of,
    columns_of,
    dot_row,
    head_of,
    load_pixels,
    locate,
    logits_of,
    mix,
    mix_all,
    scaled,
    softmax_row,
    spread,
    store_pixels,
    tap_of,
    tile_of,
    zeros,
)


class Gradients(NamedTuple):
    """Where the gradients go that are sums over programs; None for one that is not needed.

    key and value are dense ``(B, S, Hs, Ws, channels)`` and zeroed, float32 or int64. homography
    ``(B, V, tiles, heads, N, 3, 3)`` and bias ``(B, V, tiles, heads, N, R, R)`` are float32 and zeroed, with one
    partial sum per program.
    """

    key: Any
    value: Any
    homography: Any
    bias: Any


@triton.jit
def head_of_dense(grad, pixel, head, sizes, C: tl.constexpr):
    """Pointer to the first channel of a head at a pixel of a dense gradient."""
    return grad + pixel * (sizes.heads * C) + head.to(tl.int64) * C


@triton.jit
def scatter(
    base, column, row, touched, weight, pixels, factor, sizes,
    C: tl.constexpr, BLOCK: tl.constexpr, FIXED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Adds ``weight * pixels`` to the gradient at one tap of every pixel."""
    channels = sizes.heads * C
    line = sizes.source_width * channels
    for c in tl.static_range(len(pixels)):
        to, mask = block_of(column, row, channels, line, 1, touched, c * BLOCK, C, BLOCK, WIDE)
        product = weight[:, None] * pixels[c]
        if FIXED:
            add_fixed_point(base + to, product, factor, mask)
        else:
            tl.atomic_add(base + to, product, mask=mask, sem="relaxed")


@triton.jit
def slopes_of(fx, fy, above, below):
    """Derivatives of ``cells_of`` with respect to x and to y."""
    along, across = (), ()
    for j in tl.static_range(len(above) - 1):
        along = along + (mix(fy, above[j + 1] - above[j], below[j + 1] - below[j]),)
        across = across + (mix(fx, below[j] - above[j], below[j + 1] - above[j + 1]),)
    return along, across


@triton.jit
def weigh(weights, cells):
    total = weights[0] * cells[0]
    for j in tl.static_range(1, len(weights)):
        total += weights[j] * cells[j]
    return total


@triton.jit
def sum_window(
    softmax, pixels, gradients, keys, values, key, value, bias, n, sx, sy, near, sizes, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Adds the cells of slot n to the online softmax ``(peak, total, inner)``, inner from ``<grad_out, value>``."""
    peak, total, inner = softmax
    fx, fy = sx - tl.floor(sx), sy - tl.floor(sy)
    columns, touched, inside = columns_of(sx, near, R, sizes.source_width)
    row, row_touched = tap_of(sy, 0, R, sizes.source_height)
    above = dot_row(pixels, keys, key, columns, touched, row, row_touched, C, BLOCK, WIDE)
    above_v = dot_row(gradients, values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE)
    for i in range(R):
        row, row_touched = tap_of(sy, i + 1, R, sizes.source_height)
        below = dot_row(pixels, keys, key, columns, touched, row, row_touched, C, BLOCK, WIDE)
        below_v = dot_row(gradients, values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE)
        row_inside = cell_inside(sy, i, R, sizes.source_height)
        logits = logits_of(cells_of(fx, fy, above, below), bias, n, i, inside, row_inside, scale)
        peak, total, factor, weights = softmax_row(peak, total, logits)
        products = cells_of(fx, fy, above_v, below_v)
        inner *= factor
        for j in tl.static_range(R):
            inner += tl.where(logits[j] == float("-inf"), 0.0, weights[j] * products[j])
        above, above_v = below, below_v
    return peak, total, inner


@triton.jit
def softmax_backward(logits, peak, log_sum, values, inner):
    """Weights of a row of cells, and the gradients of its logits."""
    weights, grad_logits = (), ()
    for j in tl.static_range(len(logits)):
        weight = tl.exp((logits[j] - peak) - log_sum)
        weights = weights + (weight,)
        grad_logits = grad_logits + (tl.where(logits[j] == float("-inf"), 0.0, weight * (values[j] - inner)),)
    return weights, grad_logits


@triton.jit
def backward_row(
    result, gammas, betas, pixels, gradients, bases, key, factors, columns, touched, row, row_touched, sizes,
    QUERY: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    C: tl.constexpr, CV: tl.constexpr, FIXED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """What a row of taps, of weights gammas and betas, adds to the query's gradient (the result), and receives.

    QUERY, KEY and VALUE say whether that gradient is needed.
    """
    keys, grad_keys, grad_values = bases
    for j in tl.static_range(len(columns)):
        on = touched[j] & row_touched
        if QUERY:
            result = add_scaled(result, gammas[j], load_pixels(keys, key, columns[j], row, on, C, BLOCK, WIDE))
        if KEY:
            scatter(
                grad_keys, columns[j], row, on, gammas[j], pixels, factors[0], sizes, C, BLOCK, FIXED, WIDE
            )  # fmt: skip
        if VALUE:
            scatter(
                grad_values, columns[j], row, on, betas[j], gradients, factors[1], sizes, CV, BLOCK_V, FIXED, WIDE
            )  # fmt: skip
    return result


@triton.jit
def store_homography_gradient(to, gx, gy, sx, sy, Z, x, y):
    """The sum over the pixels of ``(dX, dY, dZ)^T (x, y, 1)``."""
    gX, gY, gZ = project_backward(gx, gy, sx, sy, Z)
    x, y = x.to(tl.float32), y.to(tl.float32)
    tl.store(to + 0, tl.sum(gX * x, 0))
    tl.store(to + 1, tl.sum(gX * y, 0))
    tl.store(to + 2, tl.sum(gX, 0))
    tl.store(to + 3, tl.sum(gY * x, 0))
    tl.store(to + 4, tl.sum(gY * y, 0))
    tl.store(to + 5, tl.sum(gY, 0))
    tl.store(to + 6, tl.sum(gZ * x, 0))
    tl.store(to + 7, tl.sum(gZ * y, 0))
    tl.store(to + 8, tl.sum(gZ, 0))


@triton.jit
def backward_window(
    result, target, point, bases, key, value, bias, grads, factors, n, part, sizes, scale,
    QUERY: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, FIXED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The gradients of slot n: adds the query's to ``result`` and scatters the others.

    Returns ``result``, and the gradient of the projected point.
    """
    pixels, gradients, peak, log_sum, inner = target
    sx, sy, near = point
    keys, values, grad_keys, grad_values = bases
    scattered = (keys, grad_keys, grad_values)
    fx, fy = sx - tl.floor(sx), sy - tl.floor(sy)
    columns, touched, inside = columns_of(sx, near, R, sizes.source_width)
    row, row_touched = tap_of(sy, 0, R, sizes.source_height)
    above = dot_row(pixels, keys, key, columns, touched, row, row_touched, C, BLOCK, WIDE)
    above_v = dot_row(gradients, values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE)
    before, before_v = zeros(sx, R + 1), zeros(sx, R + 1)  # what a row of taps receives from the cells above it
    gx, gy = sx * 0, sx * 0
    for i in range(R):
        next_row, next_touched = tap_of(sy, i + 1, R, sizes.source_height)
        below = dot_row(pixels, keys, key, columns, touched, next_row, next_touched, C, BLOCK, WIDE)
        below_v = dot_row(gradients, values, value, columns, touched, next_row, next_touched, CV, BLOCK_V, WIDE)
        row_inside = cell_inside(sy, i, R, sizes.source_height)
        logits = logits_of(cells_of(fx, fy, above, below), bias, n, i, inside, row_inside, scale)
        weights, grad_logits = softmax_backward(logits, peak, log_sum, cells_of(fx, fy, above_v, below_v), inner)
        if grads.bias is not None:
            for j in tl.static_range(R):
                tl.store(grads.bias + ((part + n) * R + i) * R + j, tl.sum(grad_logits[j], 0))
        if grads.homography is not None:
            along, across = slopes_of(fx, fy, above, below)
            along_v, across_v = slopes_of(fx, fy, above_v, below_v)
            gx += weigh(grad_logits, along) * scale + weigh(weights, along_v)
            gy += weigh(grad_logits, across) * scale + weigh(weights, across_v)
        gammas, betas = spread(fx, scaled(grad_logits, scale)), spread(fx, weights)
        result = backward_row(
            result, mix_all(fy, gammas, before), mix_all(fy, betas, before_v), pixels, gradients, scattered, key,
            factors, columns, touched, row, row_touched, sizes,
            QUERY, KEY, VALUE, C, CV, FIXED, WIDE, BLOCK, BLOCK_V,
        )  # fmt: skip
        above, above_v, before, before_v, row, row_touched = below, below_v, gammas, betas, next_row, next_touched
    result = backward_row(
        result, scaled(before, fy), scaled(before_v, fy), pixels, gradients, scattered, key,
        factors, columns, touched, row, row_touched, sizes,
        QUERY, KEY, VALUE, C, CV, FIXED, WIDE, BLOCK, BLOCK_V,
    )  # fmt: skip
    return result, gx, gy


@triton.jit
def backward_kernel(
    query, key, value, homography, neighbors, bias, grad_out, grad_log_sum, grad_query, grads, factors, sizes, scale,
    QUERY: tl.constexpr, C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, FIXED: tl.constexpr, WIDE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The gradients that ``grads`` has room for, from a tile of pixels of one head; with QUERY that of query too.

    query, key, value, grad_out and grad_query are ``Image``. FIXED adds up ``factors * gradient`` as 64-bit integers.
    """
    KEY: tl.constexpr = grads.key is not None
    VALUE: tl.constexpr = grads.value is not None
    view, head, tile, x, y = tile_of(sizes, TILE_H, TILE_W)
    b, v = view // sizes.views, view % sizes.views
    exists = (x < sizes.width) & (y < sizes.height)
    pixels = load_pixels(head_of(query, b, v, head, C), query, x, y, exists, C, BLOCK, WIDE)
    gradients = load_pixels(head_of(grad_out, b, v, head, CV), grad_out, x, y, exists, CV, BLOCK_V, WIDE)
    head_bias = bias + head * sizes.slots * R * R if bias is not None else None
    peak = tl.full((TILE_H * TILE_W,), float("-inf"), tl.float32)
    total, inner = tl.zeros((TILE_H * TILE_W,), tl.float32), tl.zeros((TILE_H * TILE_W,), tl.float32)
    for n in range(sizes.slots):
        edge = v * sizes.slots + n
        neighbor = tl.load(neighbors + edge)
        sx, sy, Z, near = locate(homography + b * sizes.homography_b + edge * 9, neighbor, sizes, x, y, R)
        if tl.max(near.to(tl.int32), 0) > 0:
            keys, values = head_of(key, b, neighbor, head, C), head_of(value, b, neighbor, head, CV)
            peak, total, inner = sum_window(
                (peak, total, inner), pixels, gradients, keys, values, key, value, head_bias, n, sx, sy, near, sizes,
                scale, C, CV, R, WIDE, BLOCK, BLOCK_V,
            )  # fmt: skip

    divisor = tl.where(total == 0, 1.0, total)
    inner = inner / divisor
    if grad_log_sum is not None:
        at = (view * sizes.heads + head) * sizes.height * sizes.width + y * sizes.width + x
        inner -= tl.load(grad_log_sum + at, mask=exists, other=0.0)
    peak = tl.where(peak == float("-inf"), 0.0, peak)  # no cell is valid there; -inf - -inf would be NaN
    target = (pixels, gradients, peak, tl.log(divisor), inner)
    result = scaled(pixels, 0.0)  # even when it is not needed: Triton 3.3 compiles no branch that yields nothing
    scales = (tl.load(factors), tl.load(factors + 1)) if FIXED else (1.0, 1.0)
    tiles = tl.cdiv(sizes.width, TILE_W) * tl.cdiv(sizes.height, TILE_H)
    part = ((view * tiles + tile) * sizes.heads + head) * sizes.slots

    for n in range(sizes.slots):
        edge = v * sizes.slots + n
        neighbor = tl.load(neighbors + edge)
        sx, sy, Z, near = locate(homography + b * sizes.homography_b + edge * 9, neighbor, sizes, x, y, R)
        if tl.max(near.to(tl.int32), 0) > 0:
            keys, values = head_of(key, b, neighbor, head, C), head_of(value, b, neighbor, head, CV)
            source = (b * sizes.sources + neighbor) * sizes.source_height * sizes.source_width
            # A tuple may not hold None, so an unused pointer stands for a gradient that is not needed.
            grad_keys = head_of_dense(grads.key, source, head, sizes, C) if grads.key is not None else keys
            grad_values = head_of_dense(grads.value, source, head, sizes, CV) if grads.value is not None else values
            result, gx, gy = backward_window(
                result, target, (sx, sy, near), (keys, values, grad_keys, grad_values), key, value, head_bias, grads,
                scales, n, part, sizes, scale, QUERY, KEY, VALUE, C, CV, R, FIXED, WIDE, BLOCK, BLOCK_V,
            )  # fmt: skip
            if grads.homography is not None:
                store_homography_gradient(grads.homography + (part + n) * 9, gx, gy, sx, sy, Z, x, y)

    if QUERY:
        store_pixels(head_of(grad_query, b, v, head, C), grad_query, x, y, exists, result, C, BLOCK, WIDE)
