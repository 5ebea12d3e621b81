"""Triton kernels of homography_warp: every mode and padding, forward and backward, for any strides.

A program takes a tile of pixels and goes through the channels. Where channels lie side by side ("channels last"), lanes
run along them and read packs of 16 bytes; elsewhere ("planes") lanes run along the rows.

Arithmetic, bilinear, a pixel of C channels of s bytes: 2 C s bytes of device memory (every source pixel is read once,
its other three taps come from L1), 8 C float32 operations, some 80 instructions to locate it, repeated by every lane
that works on it. An H200 moves 19 bytes a clock and multiprocessor and starts 4 warp instructions. At C = 64, bfloat16,
a pixel is 13 clocks of memory, against 8 lanes x (80 + 4 loads + 8 x (4 conversions + 6 multiply-adds)) / 128 = 10
clocks of issue; in float32 27 against 16 x (80 + 4 + 4 x 6) / 128 = 14. Memory binds: 256 x 256 x 64 at B = 8 in
bfloat16 is 134 MB, 31 us at 4.3 TB/s, and 70 to 80 % of that rate is expected. Bicubic has 16 taps: 8 x (160 + 16 + 8 x
(16 + 20)) / 128 = 29 clocks, so that issue binds. Planes of bytes have a lane for every byte: 4 loads and 20
instructions a byte beside 80 / C to locate it, 128 a clock: at C = 3 some 0.4 clocks a byte against 0.1 of memory.
The backward reads input and grad_out once and adds 4 C floats a pixel in L2, 4 an instruction on sm_90 and later:
16 C bytes at some 2.5 TB/s of L2 atomics against 2 C s at 4.3, so that L2 binds: 215 us at the shape above. In 64-bit
whole numbers it is one atomic a number and 32 C bytes: 2 to 4 times as long.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsad.kernels.homography_warp.taps import axis_tap, clamp, locate
from vsad.ops.common.fixed_point import fixed_point_scale, from_fixed_point
from vsad.ops.common.layout import empty_like_layout
from vsad.ops.common.reference_sampling import coordinate_limit
from vsad.ops.common.tensors import batch_stride

PROGRAMS = 16 * 132  # fill an H200 several times over; below, channels and tiles are spread thinner
TILES = 8  # of a program at most, in the backward: one reduction of dH for so many
# what a thread holds, channels of a pixel in planes, packs of channels where they lie side by side; and warps: with
# 8 a thread may have 255 registers, with 4 the compiler spills some of the bicubic backward's 200, to fit more programs
FORWARD = {"nearest": (4, 4, 4), "bilinear": (4, 2, 4), "bicubic": (2, 1, 4)}
BACKWARD = {"nearest": (4, 2, 4), "bilinear": (2, 1, 4), "bicubic": (1, 1, 8)}
PLANES = (32, 1)  # pixels in a row of a tile, and rows for a warp
# pixels in a row of a tile (neighbours' taps meet in L1), channels and packs of a pixel at most; the rows follow
CHANNELS_LAST = (8, 64, 16)
PACK_BYTES = 16
OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}

Table = dict[str, tuple[int, int, int]]

# the shape classes are constants of the kernels; what else a call brings does not compile another kernel
GENERAL = [
    "image", "homography", "out", "mask", "scale", "grad_out", "grad_image", "grad_homography",
    "image_b", "image_c", "image_h", "image_w", "out_b", "out_c", "out_h", "out_w", "to_b", "to_c", "to_h", "to_w",
    "homography_b", "packs", "source_height", "source_width", "height", "width", "tiles_of_a_program",
]  # fmt: skip


@triton.jit
def _over_channels(pixels, LAST: tl.constexpr):
    """Makes numbers of pixels fit a tile, whose last dimension is the one that lanes run along."""
    return tl.expand_dims(pixels, 1 if LAST else 0)


@triton.jit
def _over_pixels(channels, LAST: tl.constexpr):
    return tl.expand_dims(channels, 0 if LAST else 1)


@triton.jit
def _offset(y, x, stride_h, stride_w, LAST: tl.constexpr, PACK: tl.constexpr):
    """Of pixels in an image. Strides are in packs, so that the compiler sees what they are multiples of."""
    return _over_channels((y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w) * PACK, LAST)


@triton.jit
def _channels(pointer, b, stride_b, stride_c, channel, LAST: tl.constexpr, PACK: tl.constexpr):
    """Pointers to channels of image b."""
    stride = 1 if LAST else stride_c
    pointers = pointer + b * stride_b * PACK + _over_pixels(channel.to(tl.int64) * stride, LAST)
    if PACK > 1:
        pointers = tl.multiple_of(pointers, (1, PACK * pointer.dtype.element_ty.primitive_bitwidth // 8))
    return pointers


@triton.jit
def _pixels(tile, width, height, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
    """``x, y`` of the pixels of a tile, and whether they exist."""
    tiles_x = tl.cdiv(width, TILE_W)
    pixel = tl.arange(0, TILE_W * TILE_H)
    x = (tile % tiles_x) * TILE_W + pixel % TILE_W
    y = (tile // tiles_x) * TILE_H + pixel // TILE_W
    return x, y, (x < width) & (y < height)


@triton.jit(do_not_specialize=GENERAL)
def forward_kernel(
    image, homography, out, mask,
    image_b, image_c, image_h, image_w, homography_b, out_b, out_c, out_h, out_w,
    packs, source_height, source_width, height, width, anywhere,
    MODE: tl.constexpr, PADDING: tl.constexpr, LAST: tl.constexpr, PACK: tl.constexpr,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    TAPS: tl.constexpr = 4 if MODE == "bicubic" else 2 if MODE == "bilinear" else 1
    TILE: tl.constexpr = (TILE_W * TILE_H, TILE_C) if LAST else (TILE_C, TILE_W * TILE_H)
    tiles = tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    x, y, exists = _pixels(tl.program_id(0) % tiles, width, height, TILE_W, TILE_H)
    last_x, last_y = (source_width - 1).to(tl.float32), (source_height - 1).to(tl.float32)
    sx, sy, _, near = locate(homography + b * homography_b, x, y, last_x, last_y, anywhere)
    if tl.program_id(1) == 0:
        inside = near & (sx >= 0) & (sx <= last_x) & (sy >= 0) & (sy <= last_y)
        tl.store(mask + (b * height + y) * width + x, inside.to(tl.uint8), mask=exists)

    near &= exists
    for start in range(tl.program_id(1) * TILE_C, packs * PACK, tl.num_programs(1) * TILE_C):
        channel = start + tl.arange(0, TILE_C)
        counts = _over_pixels(channel < packs * PACK, LAST)
        source = _channels(image, b, image_b, image_c, channel, LAST, PACK)
        value = tl.zeros(TILE, tl.float32)
        for j in tl.static_range(TAPS):
            at_y, in_y, weight_y, _ = axis_tap(sy, last_y, j, MODE, PADDING)
            row = tl.zeros_like(value)
            for i in tl.static_range(TAPS):
                at_x, in_x, weight_x, _ = axis_tap(sx, last_x, i, MODE, PADDING)
                from_here = source + _offset(at_y, at_x, image_h, image_w, LAST, PACK)
                tap = tl.load(from_here, mask=_over_channels(near & in_y & in_x, LAST) & counts, other=0).to(tl.float32)
                row += _over_channels(weight_x, LAST) * tap
            value += _over_channels(weight_y, LAST) * row
        if out.dtype.element_ty == tl.uint8:
            value = clamp(value, 0.0, 255.0) + 8388608.0 - 8388608.0  # beyond 2^23 there are whole numbers only
        to = _channels(out, b, out_b, out_c, channel, LAST, PACK) + _offset(y, x, out_h, out_w, LAST, PACK)
        tl.store(to, value.to(out.dtype.element_ty), mask=_over_channels(exists, LAST) & counts)


@triton.jit
def _add_moments(a, b, c, x, y, d):
    return a + d * x.to(tl.float32), b + d * y.to(tl.float32), c + d


@triton.jit(do_not_specialize=GENERAL)
def backward_kernel(
    grad_out, image, homography, scale, grad_image, grad_homography,
    out_b, out_c, out_h, out_w, image_b, image_c, image_h, image_w, homography_b, to_b, to_c, to_h, to_w,
    packs, source_height, source_width, height, width, anywhere, tiles_of_a_program,
    MODE: tl.constexpr, PADDING: tl.constexpr, LAST: tl.constexpr, PACK: tl.constexpr,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """A gradient without a pointer is not needed; with a scale, grad_image is added up in whole numbers."""
    TAPS: tl.constexpr = 4 if MODE == "bicubic" else 2 if MODE == "bilinear" else 1
    TILE: tl.constexpr = (TILE_W * TILE_H, TILE_C) if LAST else (TILE_C, TILE_W * TILE_H)
    tiles = tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)
    programs = tl.cdiv(tiles, tiles_of_a_program)
    b = (tl.program_id(0) // programs).to(tl.int64)
    first = tl.program_id(0) % programs * tiles_of_a_program
    last_x, last_y = (source_width - 1).to(tl.float32), (source_height - 1).to(tl.float32)
    none = tl.zeros((TILE_W * TILE_H,), tl.float32)
    XX, XY, X1, YX, YY, Y1, ZX, ZY, Z1 = none, none, none, none, none, none, none, none, none  # (dX, dY, dZ) (x, y, 1)

    for tile in range(first, tl.minimum(first + tiles_of_a_program, tiles)):
        x, y, exists = _pixels(tile, width, height, TILE_W, TILE_H)
        sx, sy, Z, near = locate(homography + b * homography_b, x, y, last_x, last_y, anywhere)
        near &= exists
        gx, gy = tl.zeros(TILE, tl.float32), tl.zeros(TILE, tl.float32)
        for start in range(tl.program_id(1) * TILE_C, packs * PACK, tl.num_programs(1) * TILE_C):
            channel = start + tl.arange(0, TILE_C)
            counts = _over_pixels(channel < packs * PACK, LAST)
            grads = _channels(grad_out, b, out_b, out_c, channel, LAST, PACK) + _offset(y, x, out_h, out_w, LAST, PACK)
            g = tl.load(grads, mask=_over_channels(near, LAST) & counts, other=0).to(tl.float32)
            for j in tl.static_range(TAPS):
                at_y, in_y, weight_y, slope_y = axis_tap(sy, last_y, j, MODE, PADDING)
                for i in tl.static_range(TAPS):
                    at_x, in_x, weight_x, slope_x = axis_tap(sx, last_x, i, MODE, PADDING)
                    has = _over_channels(near & in_y & in_x, LAST) & counts
                    if grad_homography is not None:
                        source = _channels(image, b, image_b, image_c, channel, LAST, PACK)
                        source += _offset(at_y, at_x, image_h, image_w, LAST, PACK)
                        v = g * tl.load(source, mask=has, other=0).to(tl.float32)
                        gx += _over_channels(weight_y * slope_x, LAST) * v
                        gy += _over_channels(slope_y * weight_x, LAST) * v
                    if grad_image is not None:
                        to = _channels(grad_image, b, to_b, to_c, channel, LAST, PACK)
                        to += _offset(at_y, at_x, to_h, to_w, LAST, PACK)
                        weight = _over_channels(weight_y * weight_x, LAST)
                        if scale is None:
                            share = weight * g
                        else:  # in float64, the scale a power of two: only the last step rounds
                            exact = weight.to(tl.float64) * g.to(tl.float64) * tl.load(scale)
                            share = tl.floor(exact + 0.5).to(tl.int64)
                        tl.atomic_add(to, share, mask=has, sem="relaxed")
        if grad_homography is not None:
            dX, dY = tl.sum(gx, 1 if LAST else 0) / Z, tl.sum(gy, 1 if LAST else 0) / Z
            dZ = -(dX * sx + dY * sy)
            XX, XY, X1 = _add_moments(XX, XY, X1, x, y, dX)
            YX, YY, Y1 = _add_moments(YX, YY, Y1, x, y, dY)
            ZX, ZY, Z1 = _add_moments(ZX, ZY, Z1, x, y, dZ)

    if grad_homography is not None:
        program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
        to = grad_homography + program * 9
        tl.store(to + 0, tl.sum(XX, 0))
        tl.store(to + 1, tl.sum(XY, 0))
        tl.store(to + 2, tl.sum(X1, 0))
        tl.store(to + 3, tl.sum(YX, 0))
        tl.store(to + 4, tl.sum(YY, 0))
        tl.store(to + 5, tl.sum(Y1, 0))
        tl.store(to + 6, tl.sum(ZX, 0))
        tl.store(to + 7, tl.sum(ZY, 0))
        tl.store(to + 8, tl.sum(Z1, 0))


def forward(input: Tensor, homography: Tensor, size: list[int], mode: str, padding: str) -> tuple[Tensor, Tensor]:
    """``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    B, C = input.shape[:2]
    out = empty_like_layout(input, C, size=(size[0], size[1]))
    mask = input.new_empty((B, *size), dtype=torch.bool)
    constants = _constants(mode, padding, FORWARD, PACK_BYTES // input.element_size(), input, out)
    tiles, shares = _spread(out, constants)
    if B * tiles:
        homography = homography.contiguous()
        with torch.cuda.device_of(input):
            forward_kernel[(B * tiles, shares)](
                input, homography, out, mask.view(torch.uint8),
                *_strides(input, constants), batch_stride(homography), *_strides(out, constants),
                *_sizes(input, out, constants), **constants, **_options(mode, FORWARD),
            )  # fmt: skip
    return out, mask


def backward(
    grad_out: Tensor, input: Tensor, homography: Tensor, mode: str, padding: str, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of input and homography; an empty tensor where ``needs`` says no.

    The input's gradient is added up atomically, in float32, so its last bits differ from run to run. Under
    ``torch.use_deterministic_algorithms`` it is added up in 64-bit whole numbers, which needs twice the memory and
    gives the same bits on every run; a gradient that is not finite then makes all of the input's NaN.

    Raises:
        ValueError: input is not floating point. The public function asks for no such gradient; the schema can.
    """
    if not input.is_floating_point():
        raise ValueError(f"homography_warp: input must be floating point to have a gradient, got {input.dtype}")
    (B, C), (H, W) = input.shape[:2], grad_out.shape[2:]
    if input.stride(1) == 1 and C > 1 and grad_out.stride(1) != 1:
        grad_out = empty_like_layout(input, C, size=(H, W)).copy_(grad_out)
    whole = needs[0] and torch.are_deterministic_algorithms_enabled()
    scale = fixed_point_scale(grad_out) if whole else None
    total = empty_like_layout(input, C, dtype=torch.int64 if whole else torch.float32).zero_() if needs[0] else None
    scattered = input if total is None else total
    pack = _backward_pack(mode, whole, _capability(input.device))
    constants = _constants(mode, padding, BACKWARD, pack, input, grad_out, scattered)
    tiles, shares = _spread(grad_out, constants)
    run = max(1, min(TILES, B * tiles * shares // PROGRAMS))
    programs = triton.cdiv(tiles, run)  # of an image
    parts = None
    if needs[1] and mode != "nearest":  # a staircase
        images = B if homography.shape[0] == 1 else 1  # one homography gathers the whole batch
        parts = homography.new_empty((homography.shape[0], images * programs * shares, 3, 3))
    if B * programs and (total is not None or parts is not None):
        dense = homography.contiguous()
        with torch.cuda.device_of(input):
            backward_kernel[(B * programs, shares)](
                grad_out, input, dense, scale, total, parts,
                *_strides(grad_out, constants), *_strides(input, constants), batch_stride(dense),
                *_strides(scattered, constants), *_sizes(input, grad_out, constants), run,
                **constants, **_options(mode, BACKWARD),
            )  # fmt: skip
    grad_input = input.new_empty((0,)) if total is None else from_fixed_point(total, scale, input.dtype)
    if parts is None:
        return grad_input, homography.new_zeros(homography.shape if needs[1] else (0,))
    return grad_input, parts.sum(1, dtype=torch.float64).to(homography.dtype)


def _constants(mode: str, padding: str, table: Table, pack: int, *pictures: Tensor) -> dict[str, Any]:
    """What a kernel is compiled for, when it takes such pictures in such packs if they are aligned to them."""
    C = pictures[0].shape[1]
    last = C > 1 and all(p.stride(1) == 1 for p in pictures)
    aligned = last and C % pack == 0 and all(_aligned(p, pack) for p in pictures)
    return _shape(mode, padding, table, last, pack if aligned else 1, C)


def _shape(mode: str, padding: str, table: Table, last: bool, pack: int, channels: int) -> dict[str, Any]:
    channels = triton.next_power_of_2(max(channels, 1))
    in_planes, packs, warps = table[mode]
    if last:
        width, most, lanes = CHANNELS_LAST
        channels = min(channels, most, lanes * pack)
        rows = max(1, 32 * warps * packs * pack // (width * channels))
    else:
        channels = min(channels, in_planes)
        width, rows = PLANES[0], PLANES[1] * warps
    tile = {"TILE_W": width, "TILE_H": rows, "TILE_C": channels}
    return {"MODE": mode, "PADDING": padding, "LAST": last, "PACK": pack, **tile}


def _options(mode: str, table: Table) -> dict[str, Any]:
    return {**OPTIONS, "num_warps": table[mode][2]}


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _backward_pack(mode: str, whole: bool, capability: tuple[int, int]) -> int:
    """Whole numbers are added one by one; floats, and all that is read with them, come in packs of 16 bytes.

    Before sm_90 floats are added one by one too, each through a pointer of its own: too many for 4 of 16 taps.
    """
    if whole:
        return 1
    return 2 if mode == "bicubic" and capability < (9, 0) else PACK_BYTES // 4


def _aligned(picture: Tensor, pack: int) -> bool:
    apart = any(picture.stride(i) % pack for i in (0, 2, 3))
    return not apart and picture.data_ptr() % (pack * picture.element_size()) == 0


def _spread(out: Tensor, constants: dict[str, Any]) -> tuple[int, int]:
    """How many tiles an image of the target has, and to how many programs the channels of a tile are given."""
    B, C, H, W = out.shape
    tiles = triton.cdiv(W, constants["TILE_W"]) * triton.cdiv(H, constants["TILE_H"])
    shares = 1
    while shares * constants["TILE_C"] < C and B * tiles * shares < PROGRAMS:
        shares *= 2
    return tiles, shares


def _strides(picture: Tensor, constants: dict[str, Any]) -> tuple[int, ...]:
    """Of batch, channels, rows and columns; all but the channels' in packs."""
    b, c, h, w = picture.stride()
    pack = constants["PACK"]
    return b // pack, c, h // pack, w // pack


def _sizes(input: Tensor, out: Tensor, constants: dict[str, Any]) -> tuple[float, ...]:
    _, C, Hs, Ws = input.shape
    return C // constants["PACK"], Hs, Ws, *out.shape[2:], coordinate_limit(torch.float32, (Hs, Ws))


def variants(capability: tuple[int, int] = (9, 0)) -> Iterator[tuple[Any, ...]]:
    """What ships: ``(kernel, signature, constants, options, wanted)``, wanted in machine code.

    Of the combinations that differ in their padding only, every dtype and layout has the longest, and one has all.
    """
    elements = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}
    layouts = ((False, False, 3), (True, False, 3), (True, True, 64))  # channels last, aligned, channels
    for element, (last, aligned, channels), mode in product(elements, layouts, FORWARD):
        every = element == torch.bfloat16 and aligned
        for padding in ("zeros", "border", "reflection") if every else ("reflection",):
            pack = PACK_BYTES // element.itemsize if aligned else 1
            wanted: tuple[str, ...] = (r"LDG\.E\.128", r"STG\.E\.128") if aligned else ()
            shape = _shape(mode, padding, FORWARD, last, pack, channels)
            yield forward_kernel, *_signature(forward_kernel, elements[element], shape), _options(mode, FORWARD), wanted
            for whole in (False, True) if element.is_floating_point else ():
                pack = _backward_pack(mode, whole, capability) if aligned else 1
                shape = _shape(mode, padding, BACKWARD, last, pack, channels)
                shape |= {} if whole else {"scale": None}
                bits = 8 * pack * element.itemsize
                wide = (rf"LDG\.E\.{bits}",) if bits > 32 and mode != "nearest" else ()
                wanted = (r"RED\S*F32x4" if pack == 4 and capability >= (9, 0) else r"RED|ATOM", *wide)
                types = _signature(backward_kernel, elements[element], shape, "*i64" if whole else "*fp32")
                yield backward_kernel, *types, _options(mode, BACKWARD), wanted


def _signature(
    kernel: Any, element: str, constants: dict[str, Any], gradient: str = ""
) -> tuple[dict[str, str], dict[str, Any]]:
    types = dict.fromkeys(("image", "out", "grad_out"), element) | {"grad_image": gradient, "mask": "*u8"}
    types |= {"homography": "*fp32", "grad_homography": "*fp32", "scale": "*fp64", "anywhere": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    return {name: types.get(name, "i32") for name in kernel.arg_names}, constants
