"""Triton kernel of homography_align, forward: a tile of pixels of one head, all slots, online softmax.

The kernel goes through a window's rows of taps: a row of keys gives R + 1 dot products, two such rows a row of logits,
and these the weights of a row of values. Only the last rows are kept, so the registers grow with R and not with R^2.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from vsad.kernels.common.device import on_its_device
from vsad.kernels.common.geometry import INTERPRETED
from vsad.kernels.homography_align.window import (
    add_row,
    block_of,
    cell_inside,
    cells_of,
    columns_of,
    dot_row,
    load_pixels,
    locate,
    logits_of,
    mix_all,
    offset_of,
    scaled,
    softmax_row,
    spread,
    tap_of,
    tile_of,
    zeros,
)
from vsad.ops.common.layout import empty_like_layout
from vsad.ops.common.tensors import batch_stride

# Arithmetic, B=8 V=5 N=4 C=Cv=320 64 x 64 R=3 bf16 on an H200: 655,360 pixel-slots read 16 taps of 640 channels.
#   compulsory bytes   4 x 105 MB                       420 MB at 4.3 TB/s          0.10 ms
#   L1                 655,360 x 16 x 640 x 2 B         13.4 GB at 132 x 128 B      0.47 ms
#   issue              a fused multiply-add and about one conversion a channel and tap: 13.4 G lanes
#                      at 132 x 128 lanes                                           0.47 ms, and what a pixel costs
#   L2                 a 4 x 8 tile's windows touch 7 x 11 source pixels: 2.0 GB     about 0.4 ms
# L1 and issue bind together: 0.6 to 1 ms is expected, 6 to 10 times the compulsory bytes. Nothing is measured.
#
# (channels of a head up to, fewest and most threads that share a pixel): what a thread keeps of a pixel must fit its
# 255 registers, and what it computes for the whole pixel, the others compute too
FORWARD_LANES = ((64, 2, 4), (256, 2, 8), (1024, 4, 16))
BACKWARD_LANES = ((64, 4, 8), (256, 8, 8), (1024, 8, 16))
WIDE_BACKWARD_LANES = ((1024, 16, 16),)
# pixels of a program: height and width; 128 for the interpreter, whose time goes with the number of programs
TILES = {128: (8, 16), 32: (4, 8), 16: (4, 4), 8: (2, 4)}


@triton.jit
def forward_kernel(
    query, key, value, homography, neighbors, bias, out, lse,
    query_b, query_v, query_c, query_h, query_w, key_b, key_v, key_c, key_h, key_w,
    value_b, value_v, value_c, value_h, value_w, out_b, out_v, out_c, out_h, out_w, homography_b,
    views, sources, slots, heads, height, width, source_height, source_width, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = TILE_H * TILE_W
    image, head, _, x, y = tile_of(heads, height, width, TILE_H, TILE_W)
    b, v = image // views, image % views
    exists = (x < width) & (y < height)
    queries = query + b * query_b + v * query_v + head.to(tl.int64) * C * query_c
    pixels = load_pixels(queries, offset_of(x, y, query_w, query_h, WIDE), exists, query_c, C, BLOCK, WIDE)
    peak = tl.full((PIXELS,), float("-inf"), tl.float32)
    total = tl.zeros((PIXELS,), tl.float32)
    result = zeros(tl.zeros((PIXELS, BLOCK_V), tl.float32), (CV + BLOCK_V - 1) // BLOCK_V)
    heads_bias = bias + head * slots * R * R if HAS_BIAS else bias

    for n in range(slots):
        edge = v * slots + n
        neighbor = tl.load(neighbors + edge)
        sx, sy, _Z, near = locate(
            homography + b * homography_b + edge * 9, neighbor, sources, x, y, height, width, R, source_height,
            source_width,
        )  # fmt: skip
        if tl.max(near.to(tl.int32), 0) > 0:
            keys = key + b * key_b + neighbor * key_v + head.to(tl.int64) * C * key_c
            values = value + b * value_b + neighbor * value_v + head.to(tl.int64) * CV * value_c
            fx, fy = sx - tl.floor(sx), sy - tl.floor(sy)
            columns, touched, inside = columns_of(sx, near, R, source_width)
            row, row_touched = tap_of(sy, 0, R, source_height)
            above = dot_row(
                pixels, keys, key_c, key_h, key_w, columns, touched, row, row_touched, C, BLOCK, WIDE
            )  # fmt: skip
            before = zeros(sx, R + 1)
            for i in range(R):
                next_row, next_touched = tap_of(sy, i + 1, R, source_height)
                below = dot_row(
                    pixels, keys, key_c, key_h, key_w, columns, touched, next_row, next_touched, C, BLOCK, WIDE
                )
                row_inside = cell_inside(sy, i, R, source_height)
                cells = cells_of(fx, fy, above, below)
                logits = logits_of(cells, heads_bias, n, i, inside, row_inside, scale, HAS_BIAS)
                peak, total, factor, weights = softmax_row(peak, total, logits)
                taps = spread(fx, weights)
                result = add_row(
                    scaled(result, factor[:, None]), mix_all(fy, taps, scaled(before, factor)),
                    values, value_c, value_h, value_w, columns, touched, row, row_touched, CV, BLOCK_V, WIDE,
                )  # fmt: skip
                above, before, row, row_touched = below, taps, next_row, next_touched
            result = add_row(
                result, scaled(before, fy),
                values, value_c, value_h, value_w, columns, touched, row, row_touched, CV, BLOCK_V, WIDE,
            )  # fmt: skip

    nowhere = total == 0
    divisor = tl.where(nowhere, 1.0, total)
    at = (image * heads + head) * height * width + y * width + x
    tl.store(lse + at, tl.where(nowhere, float("-inf"), peak + tl.log(divisor)), mask=exists)
    outs = out + b * out_b + v * out_v + head.to(tl.int64) * CV * out_c
    offset = offset_of(x, y, out_w, out_h, WIDE)
    for c in tl.static_range(len(result)):
        to, mask = block_of(offset, exists, out_c, c * BLOCK_V, CV, BLOCK_V, WIDE)
        tl.store(outs + to, (result[c] / divisor[:, None]).to(out.dtype.element_ty), mask=mask)


@on_its_device
def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    bias: Tensor | None,
    heads: int,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, and ``lse (B, V, heads, H, W)``."""
    out = empty_like_layout(query, value.shape[2])
    return out, forward_into(out, query, key, value, homography, neighbors, bias, heads, window, scale)


@on_its_device
def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no."""
    from vsad.kernels.homography_align import backward as homography_align_backward

    return homography_align_backward.backward(*arguments)


def forward_into(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    bias: Tensor | None,
    heads: int,
    window: int,
    scale: float,
) -> Tensor:
    """``lse (B, V, heads, H, W)``; out, of any dtype, is filled."""
    B, V, C, H, W = query.shape
    S, CV, Hs, Ws = value.shape[1:]
    lse = homography.new_empty((B, V, heads, H, W))
    query, key, value = (channels_last(t) for t in (query, key, value))
    shape = launch_shape(C // heads, CV // heads, query.element_size(), window)
    programs = programs_of(lse, shape)
    if programs:
        homography = homography.contiguous()
        forward_kernel[(programs,)](
            query, key, value, homography, neighbors.contiguous(), None if bias is None else bias.contiguous(),
            out, lse, *query.stride(), *key.stride(), *value.stride(), *out.stride(), batch_stride(homography),
            V, S, neighbors.shape[1], heads, H, W, Hs, Ws, scale,
            C=C // heads, CV=CV // heads, R=window, HAS_BIAS=bias is not None,
            WIDE=any(beyond_int32(t) for t in (query, key, value, out)),
            enable_fp_fusion=True, **shape,
        )  # fmt: skip
    return lse


def launch_shape(
    channels: int, value_channels: int, element_size: int, window: int, backward: bool = False
) -> dict[str, int]:
    """Tile, channel blocks and warps: one pixel for each group of threads, which read 16 bytes each."""
    table = WIDE_BACKWARD_LANES if backward and window >= 7 else BACKWARD_LANES if backward else FORWARD_LANES
    block, block_v = (channel_block(c, element_size, table) for c in (channels, value_channels))
    lanes = max(max(block, block_v) * element_size // 16, 1)
    threads = 128 if backward else 256
    pixels = 128 if INTERPRETED else min(threads // lanes, 32)
    tile_h, tile_w = TILES[pixels]
    warps = max(pixels * lanes // 32, 1)
    return {"TILE_H": tile_h, "TILE_W": tile_w, "BLOCK": block, "BLOCK_V": block_v, "num_warps": min(warps, 8)}


def channel_block(channels: int, element_size: int, table: tuple[tuple[int, int, int], ...]) -> int:
    """Channels that a pixel's threads read at once: of the numbers that the table allows, what wastes least."""
    least, most = next(lanes for limit, *lanes in table if channels <= limit)
    blocks = [lanes * 16 // element_size for lanes in (16, 8, 4, 2) if least <= lanes <= most]
    return min(min(blocks, key=lambda block: -channels % block), triton.next_power_of_2(channels))


def shipped() -> Iterator[tuple[str, int, int, int]]:
    """What is compiled ahead of time: dtype, its size, channels of a head, window."""
    for channels, window in ((64, 3), (64, 1), (64, 5), (64, 7), (8, 3), (16, 3), (40, 3), (80, 3), (128, 3), (128, 7)):
        yield "bf16", 2, channels, window
    for channels, window in ((64, 3), (64, 7), (40, 5), (128, 3)):
        yield "fp32", 4, channels, window
    yield "fp16", 2, 64, 3


def signature_of(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    """Types of the arguments; ``:16`` is what Triton finds of itself in calls with channels last, side by side."""
    signature = dict.fromkeys(kernel.arg_names, "i32") | {"scale": "fp32"}
    signature |= {name: "i32:16" for name in signature if name[-2:] in ("_b", "_v", "_h", "_w")}
    signature |= {name: f"{kind}:16" for name, kind in pointers.items()}
    return signature | {"homography_b": "i32"} | dict.fromkeys(constants, "constexpr")


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any], tuple[str, ...]]]:
    """Kernel, signature, constants, options, and the instructions that it is there for, of all that is shipped."""
    for dtype, size, channels, window in shipped():
        constants: dict[str, Any] = {"C": channels, "CV": channels, "R": window, "HAS_BIAS": True, "WIDE": False}
        constants |= launch_shape(channels, channels, size, window)
        options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": True}
        constants |= dict.fromkeys(("query_c", "key_c", "value_c", "out_c"), 1)
        pointers = dict.fromkeys(("query", "key", "value", "out"), f"*{dtype}")
        pointers |= dict.fromkeys(("homography", "bias", "lse"), "*fp32") | {"neighbors": "*i64"}
        yield forward_kernel, signature_of(forward_kernel, pointers, constants), constants, options, (r"LDG\.E\.128",)


def programs_of(lse: Tensor, shape: dict[str, int]) -> int:
    B, V, heads, H, W = lse.shape
    return B * V * heads * triton.cdiv(H, shape["TILE_H"]) * triton.cdiv(W, shape["TILE_W"])


def channels_last(t: Tensor) -> Tensor:
    """t, or a copy whose channels lie side by side: each tap is then read in 16-byte pieces."""
    return t if t.stride(2) == 1 else t.movedim(2, -1).contiguous().movedim(-1, 2)


def beyond_int32(t: Tensor) -> bool:
    """Whether offsets within one image of t need 64 bits."""
    return sum((n - 1) * stride for n, stride in zip(t.shape[2:], t.stride()[2:])) >= 2**31
