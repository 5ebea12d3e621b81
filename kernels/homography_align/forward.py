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
    Image,
    Sizes,
    add_row,
    cell_inside,
    cells_of,
    columns_of,
    dot_row,
    head_of,
    load_pixels,
    locate,
    logits_of,
    mix_all,
    scaled,
    softmax_row,
    spread,
    store_pixels,
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
def attend_window(
    softmax, pixels, keys, values, key, value, bias, n, sx, sy, near, sizes, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Adds the cells of slot n to the online softmax ``(peak, total, result)``."""
    peak, total, result = softmax
    fx, fy = sx - tl.floor(sx), sy - tl.floor(sy)
    columns, touched, inside = columns_of(sx, near, R, sizes.source_width)
    row, row_touched = tap_of(sy, 0, R, sizes.source_height)
    above = dot_row(pixels, keys, key, columns, touched, row, row_touched, C, BLOCK, WIDE)
    before = zeros(sx, R + 1)  # what a row of taps receives from the cells above it
    for i in range(R):
        next_row, next_touched = tap_of(sy, i + 1, R, sizes.source_height)
        below = dot_row(pixels, keys, key, columns, touched, next_row, next_touched, C, BLOCK, WIDE)
        row_inside = cell_inside(sy, i, R, sizes.source_height)
        logits = logits_of(cells_of(fx, fy, above, below), bias, n, i, inside, row_inside, scale)
        peak, total, factor, weights = softmax_row(peak, total, logits)
        taps = spread(fx, weights)
        result = add_row(
            scaled(result, factor[:, None]), mix_all(fy, taps, scaled(before, factor)),
            values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE,
        )  # fmt: skip
        above, before, row, row_touched = below, taps, next_row, next_touched
    result = add_row(
        result, scaled(before, fy), values, value, columns, touched, row, row_touched, CV, BLOCK_V, WIDE
    )  # fmt: skip
    return peak, total, result


@triton.jit
def forward_kernel(
    query, key, value, homography, neighbors, bias, out, lse, sizes, scale,
    C: tl.constexpr, CV: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """``out`` and ``lse`` of a tile of pixels of one head; query, key, value and out are ``Image``."""
    PIXELS: tl.constexpr = TILE_H * TILE_W
    view, head, _, x, y = tile_of(sizes, TILE_H, TILE_W)
    b, v = view // sizes.views, view % sizes.views
    exists = (x < sizes.width) & (y < sizes.height)
    pixels = load_pixels(head_of(query, b, v, head, C), query, x, y, exists, C, BLOCK, WIDE)
    peak = tl.full((PIXELS,), float("-inf"), tl.float32)
    total = tl.zeros((PIXELS,), tl.float32)
    result = zeros(tl.zeros((PIXELS, BLOCK_V), tl.float32), (CV + BLOCK_V - 1) // BLOCK_V)
    head_bias = bias + head * sizes.slots * R * R if bias is not None else None

    for n in range(sizes.slots):
        edge = v * sizes.slots + n
        neighbor = tl.load(neighbors + edge)
        sx, sy, _Z, near = locate(homography + b * sizes.homography_b + edge * 9, neighbor, sizes, x, y, R)
        if tl.max(near.to(tl.int32), 0) > 0:
            keys = head_of(key, b, neighbor, head, C)
            values = head_of(value, b, neighbor, head, CV)
            peak, total, result = attend_window(
                (peak, total, result), pixels, keys, values, key, value, head_bias, n, sx, sy, near, sizes, scale,
                C, CV, R, WIDE, BLOCK, BLOCK_V,
            )  # fmt: skip

    nowhere = total == 0
    divisor = tl.where(nowhere, 1.0, total)
    at = (view * sizes.heads + head) * sizes.height * sizes.width + y * sizes.width + x
    tl.store(lse + at, tl.where(nowhere, float("-inf"), peak + tl.log(divisor)), mask=exists)
    averages = ()
    for c in tl.static_range(len(result)):
        averages = averages + (result[c] / divisor[:, None],)
    store_pixels(head_of(out, b, v, head, CV), out, x, y, exists, averages, CV, BLOCK_V, WIDE)


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
            image_of(query), image_of(key), image_of(value), homography, neighbors.contiguous(),
            None if bias is None else bias.contiguous(), image_of(out), lse,
            Sizes(V, S, neighbors.shape[1], heads, H, W, Hs, Ws, batch_stride(homography)), scale,
            C=C // heads, CV=CV // heads, R=window, WIDE=any(beyond_int32(t) for t in (query, key, value, out)),
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


def image_of(t: Tensor) -> Image:
    return Image(t, *t.stride())


def channels_last(t: Tensor) -> Tensor:
    """t, or a copy whose channels lie side by side: each tap is then read in 16-byte pieces."""
    return t if t.stride(2) == 1 else t.movedim(2, -1).contiguous().movedim(-1, 2)


def beyond_int32(t: Tensor) -> bool:
    """Whether offsets within one image of t need 64 bits."""
    return sum((n - 1) * stride for n, stride in zip(t.shape[2:], t.stride()[2:])) >= 2**31
