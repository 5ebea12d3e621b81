"""Triton kernel of homography_align, backward: everything but out and lse is computed again.

The gradients of query, homography and bias are sums within a program, of which the last two are added up in a fixed
order. Those of key and value are scattered: in float32, or, where every run must give the same bits, as 64-bit
integers, whose sum does not depend on the order.

Arithmetic for the forward's shape: it reads its taps three times in place of two, 1.5 times the forward's L1 time, and
adds 655,360 x 16 x 640 floats, 27 GB, in L2. At half of L2's write bandwidth, some 2.7 TB/s, that is 10 ms: the scatter
binds, whatever else is done. Nothing here is measured.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005 (Triton's tuples grow by concatenation)
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsad.kernels.homography_align import forward as align
from vsad.kernels.homography_align.window import (
    add_scaled,
    block_of,
    cell_inside,
    cells_of,
    columns_of,
    dot,
    dot_row,
    load_pixels,
    locate,
    logits_of,
    mix,
    mix_all,
    offset_of,
    scaled,
    spread,
    tap_of,
    tile_of,
    zeros,
)
from vsad.ops.common.layout import empty_like_layout, in_layout_of
from vsad.ops.common.tensors import batch_stride

INTEGER_BITS = 61  # that the largest thinkable sum of integers needs: a sign and a factor of two remain


@triton.jit
def scatter(
    grad, offset, touched, weight, pixels, factor,
    C: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    """``grad += weight * pixels`` at one tap of every pixel."""
    for c in tl.static_range(len(pixels)):
        to, mask = block_of(offset, touched, 1, c * BLOCK, C, BLOCK, WIDE)
        what = weight[:, None] * pixels[c]
        if FIXED:
            tl.atomic_add(grad + to, (what.to(tl.float64) * factor).to(tl.int64), mask=mask, sem="relaxed")
        else:
            tl.atomic_add(grad + to, what, mask=mask, sem="relaxed")


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
def softmax_backward(logits, lse, grads, delta):
    """Weights of a row of cells, and the gradients of its logits."""
    weights, grad_logits = (), ()
    for j in tl.static_range(len(logits)):
        weight = tl.exp(logits[j] - lse)
        weights = weights + (weight,)
        grad_logits = grad_logits + (tl.where(logits[j] == float("-inf"), 0.0, weight * (grads[j] - delta)),)
    return weights, grad_logits


@triton.jit
def backward_row(
    result, gammas, betas, pixels, grads, key, grad_key, grad_value, key_factor, value_factor,
    key_c, key_h, key_w, channels, value_channels, columns, touched, row, row_touched, source_width,
    C: tl.constexpr, CV: tl.constexpr, NEED_QUERY: tl.constexpr, NEED_KEY: tl.constexpr, NEED_VALUE: tl.constexpr,
    FIXED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """What a row of taps gives to the query's gradient (the result), and receives."""
    for j in tl.static_range(len(columns)):
        on = touched[j] & row_touched
        if NEED_QUERY:
            offset = offset_of(columns[j], row, key_w, key_h, WIDE)
            result = add_scaled(result, gammas[j], load_pixels(key, offset, on, key_c, C, BLOCK, WIDE))
        if NEED_KEY:
            to = offset_of(columns[j], row, channels, source_width * channels, WIDE)
            scatter(grad_key, to, on, gammas[j], pixels, key_factor, C, BLOCK, WIDE, FIXED)
        if NEED_VALUE:
            to = offset_of(columns[j], row, value_channels, source_width * value_channels, WIDE)
            scatter(grad_value, to, on, betas[j], grads, value_factor, CV, BLOCK_V, WIDE, FIXED)
    return result


@triton.jit
def store_homography_gradient(to, gx, gy, sx, sy, Z, x, y):
    """The sum over the pixels of ``(dX, dY, dZ)^T (x, y, 1)``."""
    gX, gY = gx / Z, gy / Z
    gZ = -(gX * sx + gY * sy)
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
def backward_kernel(
    grad_out, grad_lse, query, key, value, homography, neighbors, bias, out, lse,
    grad_query, grad_key, grad_value, grad_homography, grad_bias, factors,
    grad_out_b, grad_out_v, grad_out_c, grad_out_h, grad_out_w, query_b, query_v, query_c, query_h, query_w,
    key_b, key_v, key_c, key_h, key_w, value_b, value_v, value_c, value_h, value_w,
    out_b, out_v, out_c, out_h, out_w, grad_query_b, grad_query_v, grad_query_c, grad_query_h, grad_query_w,
    homography_b, views, sources, slots, heads, height, width, source_height, source_width, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_GRAD_LSE: tl.constexpr,
    NEED_QUERY: tl.constexpr, NEED_KEY: tl.constexpr, NEED_VALUE: tl.constexpr, NEED_HOMOGRAPHY: tl.constexpr,
    NEED_BIAS: tl.constexpr, FIXED: tl.constexpr, WIDE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    image, head, tile, x, y = tile_of(heads, height, width, TILE_H, TILE_W)
    b, v, wide_head = image // views, image % views, head.to(tl.int64)
    exists = (x < width) & (y < height)
    channels, value_channels = heads * C, heads * CV
    queries = query + b * query_b + v * query_v + wide_head * C * query_c
    pixels = load_pixels(queries, offset_of(x, y, query_w, query_h, WIDE), exists, query_c, C, BLOCK, WIDE)
    grad_outs = grad_out + b * grad_out_b + v * grad_out_v + wide_head * CV * grad_out_c
    at = offset_of(x, y, grad_out_w, grad_out_h, WIDE)
    grads = load_pixels(grad_outs, at, exists, grad_out_c, CV, BLOCK_V, WIDE)
    outs = out + b * out_b + v * out_v + wide_head * CV * out_c
    delta = dot(grads, load_pixels(outs, offset_of(x, y, out_w, out_h, WIDE), exists, out_c, CV, BLOCK_V, WIDE))
    at = (image * heads + head) * height * width + y * width + x
    if HAS_GRAD_LSE:
        delta -= tl.load(grad_lse + at, mask=exists, other=0.0)
    sums = tl.load(lse + at, mask=exists, other=0.0)
    sums = tl.where(sums == float("-inf"), 0.0, sums)
    result = scaled(pixels, 0.0) if NEED_QUERY else ()
    heads_bias = bias + head * slots * R * R if HAS_BIAS else bias
    key_factor = tl.load(factors) if FIXED else 1.0
    value_factor = tl.load(factors + 1) if FIXED else 1.0
    part = ((image * (tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)) + tile) * heads + head) * slots

    for n in range(slots):
        edge = v * slots + n
        neighbor = tl.load(neighbors + edge)
        sx, sy, Z, near = locate(
            homography + b * homography_b + edge * 9, neighbor, sources, x, y, height, width, R, source_height,
            source_width,
        )  # fmt: skip
        if tl.max(near.to(tl.int32), 0) > 0:
            keys = key + b * key_b + neighbor * key_v + wide_head * C * key_c
            values = value + b * value_b + neighbor * value_v + wide_head * CV * value_c
            source = (b * sources + neighbor) * source_height * source_width
            grad_keys = grad_key + source * channels + wide_head * C if NEED_KEY else grad_key
            grad_values = grad_value + source * value_channels + wide_head * CV if NEED_VALUE else grad_value
            fx, fy = sx - tl.floor(sx), sy - tl.floor(sy)
            columns, touched, inside = columns_of(sx, near, R, source_width)
            row, row_touched = tap_of(sy, 0, R, source_height)
            above = dot_row(pixels, keys, key_c, key_h, key_w, columns, touched, row, row_touched, C, BLOCK, WIDE)
            above_v = dot_row(
                grads, values, value_c, value_h, value_w, columns, touched, row, row_touched, CV, BLOCK_V, WIDE
            )
            before, before_v = zeros(sx, R + 1), zeros(sx, R + 1)
            gx, gy = sx * 0, sx * 0
            for i in range(R):
                next_row, next_touched = tap_of(sy, i + 1, R, source_height)
                below = dot_row(
                    pixels, keys, key_c, key_h, key_w, columns, touched, next_row, next_touched, C, BLOCK, WIDE
                )
                below_v = dot_row(
                    grads, values, value_c, value_h, value_w, columns, touched, next_row, next_touched,
                    CV, BLOCK_V, WIDE,
                )  # fmt: skip
                row_inside = cell_inside(sy, i, R, source_height)
                logits = logits_of(
                    cells_of(fx, fy, above, below), heads_bias, n, i, inside, row_inside, scale, HAS_BIAS
                )
                weights, grad_logits = softmax_backward(logits, sums, cells_of(fx, fy, above_v, below_v), delta)
                if NEED_BIAS:
                    for j in tl.static_range(R):
                        tl.store(grad_bias + ((part + n) * R + i) * R + j, tl.sum(grad_logits[j], 0))
                if NEED_HOMOGRAPHY:
                    along, across = slopes_of(fx, fy, above, below)
                    along_v, across_v = slopes_of(fx, fy, above_v, below_v)
                    gx += weigh(grad_logits, along) * scale + weigh(weights, along_v)
                    gy += weigh(grad_logits, across) * scale + weigh(weights, across_v)
                gammas, betas = spread(fx, scaled(grad_logits, scale)), spread(fx, weights)
                result = backward_row(
                    result, mix_all(fy, gammas, before), mix_all(fy, betas, before_v), pixels, grads,
                    keys, grad_keys, grad_values, key_factor, value_factor,
                    key_c, key_h, key_w, channels, value_channels, columns, touched, row, row_touched, source_width,
                    C, CV, NEED_QUERY, NEED_KEY, NEED_VALUE, FIXED, WIDE, BLOCK, BLOCK_V,
                )  # fmt: skip
                above, above_v, before, before_v, row, row_touched = (
                    below, below_v, gammas, betas, next_row, next_touched
                )  # fmt: skip
            result = backward_row(
                result, scaled(before, fy), scaled(before_v, fy), pixels, grads,
                keys, grad_keys, grad_values, key_factor, value_factor,
                key_c, key_h, key_w, channels, value_channels, columns, touched, row, row_touched, source_width,
                C, CV, NEED_QUERY, NEED_KEY, NEED_VALUE, FIXED, WIDE, BLOCK, BLOCK_V,
            )  # fmt: skip
            if NEED_HOMOGRAPHY:
                store_homography_gradient(grad_homography + (part + n) * 9, gx, gy, sx, sy, Z, x, y)

    if NEED_QUERY:
        outs = grad_query + b * grad_query_b + v * grad_query_v + wide_head * C * grad_query_c
        offset = offset_of(x, y, grad_query_w, grad_query_h, WIDE)
        for c in tl.static_range(len(result)):
            to, mask = block_of(offset, exists, grad_query_c, c * BLOCK, C, BLOCK, WIDE)
            tl.store(outs + to, result[c].to(grad_query.dtype.element_ty), mask=mask)


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    heads: int,
    window: int,
    scale: float,
    deterministic: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no."""
    B, V, C, H, W = query.shape
    S, CV, Hs, Ws = value.shape[1:]
    N = neighbors.shape[1]
    queries, keys, values, grad_out = (align.channels_last(t) for t in (query, key, value, grad_out))
    homography, neighbors = homography.contiguous(), neighbors.contiguous()
    if out.dtype != torch.float32:  # <grad_out, out> of a rounded out would cost the logits' gradients their accuracy
        out = homography.new_empty((B, V, H, W, CV)).movedim(-1, 2)
        lse = align.forward_into(out, queries, keys, values, homography, neighbors, bias, heads, window, scale)
    shape = align.launch_shape(C // heads, CV // heads, query.element_size(), window, backward=True)
    programs = align.programs_of(lse, shape)

    need_query, need_key, need_value, need_homography, need_bias = needs
    need_bias = need_bias and bias is not None
    kind = torch.int64 if deterministic else torch.float32
    grad_query = empty_like_layout(query, C) if need_query else None
    grad_key = homography.new_zeros((B, S, Hs, Ws, C), dtype=kind) if need_key else None
    grad_value = homography.new_zeros((B, S, Hs, Ws, CV), dtype=kind) if need_value else None
    parts = (B, V, programs // max(B * V * heads, 1), heads, N)
    grad_homography = homography.new_zeros((*parts, 3, 3)) if need_homography else None
    grad_bias = homography.new_zeros((*parts, window, window)) if need_bias else None
    factors = None
    if programs:
        if deterministic:
            factors = _integer_factors(grad_out, grad_lse, queries, values, heads, scale)
        like_query = queries if grad_query is None else grad_query
        backward_kernel[(programs,)](
            grad_out, None if grad_lse is None else grad_lse.to(lse.dtype).contiguous(), queries, keys, values,
            homography, neighbors, None if bias is None else bias.contiguous(), out, lse,
            grad_query, grad_key, grad_value, grad_homography, grad_bias, factors,
            *grad_out.stride(), *queries.stride(), *keys.stride(), *values.stride(), *out.stride(),
            *like_query.stride(), batch_stride(homography), V, S, N, heads, H, W, Hs, Ws, scale,
            C=C // heads, CV=CV // heads, R=window, HAS_BIAS=bias is not None, HAS_GRAD_LSE=grad_lse is not None,
            NEED_QUERY=need_query, NEED_KEY=need_key, NEED_VALUE=need_value, NEED_HOMOGRAPHY=need_homography,
            NEED_BIAS=need_bias, FIXED=deterministic,
            WIDE=any(align.beyond_int32(t) for t in (queries, keys, values, grad_out, out, like_query))
            or Hs * Ws * max(C, CV) >= 2**31,
            enable_fp_fusion=True, **shape,
        )  # fmt: skip

    nothing = query.new_empty((0,))
    images = [nothing if grad_query is None else grad_query]
    for i, (like, grad) in enumerate(((key, grad_key), (value, grad_value))):
        if grad is not None and factors is not None:
            grad = grad / factors[i]
        images.append(nothing if grad is None else in_layout_of(like, grad))
    if grad_homography is None:
        grad_homography = homography.new_empty((0,))
    else:
        over = (2, 3) if homography.shape[0] == B else (0, 2, 3)  # one homography gathers the whole batch
        total = grad_homography.sum(over, dtype=torch.float64).to(homography.dtype)
        grad_homography = total.view(homography.shape)
    if grad_bias is None:
        grad_bias = homography.new_empty((0,))
    else:
        grad_bias = grad_bias.sum((0, 1, 2), dtype=torch.float64).to(homography.dtype)
    return images[0], images[1], images[2], grad_homography, grad_bias


def _integer_factors(
    grad_out: Tensor, grad_lse: Tensor | None, query: Tensor, value: Tensor, heads: int, scale: float
) -> Tensor:
    """What the gradients of key and value are multiplied with before they are rounded to integers.

    No sum can overflow: the weights of a pixel sum to 1, so a tap receives at most max |grad_out| from each pixel; and
    what gradients its logits have is at most 2 max |<grad_out, value>| + max |grad_lse|.
    """
    _, V, _, H, W = query.shape
    largest_out, largest_value, largest_query = (_largest(t) for t in (grad_out, value, query))
    largest_logit = 2 * (value.shape[2] // heads) * largest_out * largest_value
    if grad_lse is not None:
        largest_logit = largest_logit + _largest(grad_lse)
    bounds = torch.stack((abs(scale) * largest_query * largest_logit, largest_out)) * (V * H * W)
    return 2.0**INTEGER_BITS / bounds.clamp(min=1e-250)


def _largest(t: Tensor) -> Tensor:
    if t.numel() == 0:
        return t.new_zeros((), dtype=torch.float64)
    low, high = t.aminmax()
    return torch.maximum(-low, high).double()


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any], tuple[str, ...]]]:
    """Kernel, signature, constants, options, and the instructions that it is there for, of all that is shipped."""
    kernel = backward_kernel
    for dtype, size, channels, window in align.shipped():
        if (dtype, window) == ("fp32", 7):
            continue  # runs, but spills some ten registers
        for fixed in (False, True) if (channels, window) == (64, 3) else (False,):
            constants: dict[str, Any] = {"C": channels, "CV": channels, "R": window, "HAS_BIAS": True, "WIDE": False}
            constants |= {name: True for name in kernel.arg_names if name.startswith("NEED_")}
            constants |= {"FIXED": fixed, "HAS_GRAD_LSE": False, "grad_lse": None}
            constants |= {name: 1 for name in kernel.arg_names if name.endswith("_c")}
            constants |= align.launch_shape(channels, channels, size, window, backward=True)
            options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": True}
            images = ("query", "key", "value", "grad_out", "grad_query")
            pointers = dict.fromkeys(images, f"*{dtype}") | {"neighbors": "*i64"}
            pointers |= dict.fromkeys(("out", "homography", "bias", "lse", "grad_homography", "grad_bias"), "*fp32")
            pointers |= dict.fromkeys(("grad_key", "grad_value"), "*i64" if fixed else "*fp32")
            if fixed:
                pointers["factors"] = "*fp64"
            else:
                constants["factors"] = None
            wanted = (r"LDG\.E\.128", r"RED\S*\.ADD" if fixed else r"RED\S*\.ADD\.F32")
            yield kernel, align.signature_of(kernel, pointers, constants), constants, options, wanted
