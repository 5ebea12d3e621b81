"""Launch shapes of the Triton kernels of homography_warp, and the variants that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import triton

from vsad.kernels.homography_warp.backward import backward_kernel
from vsad.kernels.homography_warp.forward import forward_kernel

PROGRAMS = 16 * 132  # these fill an H200 several times over; with fewer, channels and tiles are spread thinner
TILES_PER_PROGRAM = 8  # at most, in the backward, for one reduction of the homography's gradient
# By mode: with planes, channels of a pixel per thread; with channels last, packs of channels per thread; warps. With 8
# warps a thread may have 255 registers; with 4 the compiler spills some of the 200 of the bicubic backward, because it
# aims at more resident programs.
FORWARD = {"nearest": (4, 4, 4), "bilinear": (4, 2, 4), "bicubic": (2, 1, 4)}
BACKWARD = {"nearest": (4, 2, 4), "bilinear": (2, 1, 4), "bicubic": (1, 1, 8)}
PLANES = (32, 1)  # width of a tile in pixels, and its rows per warp
# Width of a tile in pixels, whose taps meet in L1, and the most channels and packs of a pixel; the rows follow from the
# number of threads.
CHANNELS_LAST = (8, 64, 16)
PACK_BYTES = 16
OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}

Table = dict[str, tuple[int, int, int]]
Variant = tuple[Any, dict[str, str], dict[str, Any], dict[str, Any], tuple[str, ...]]


def launch_shape(mode: str, table: Table, last: bool, pack: int, channels: int) -> dict[str, Any]:
    """The constants of a kernel but for its padding; ``last`` says whether channels lie side by side."""
    channels = triton.next_power_of_2(max(channels, 1))
    in_planes, packs, warps = table[mode]
    if last:
        width, most, lanes = CHANNELS_LAST
        channels = min(channels, most, lanes * pack)
        rows = max(1, 32 * warps * packs * pack // (width * channels))
    else:
        channels = min(channels, in_planes)
        width, rows = PLANES[0], PLANES[1] * warps
    return {"MODE": mode, "LAST": last, "PACK": pack, "TILE_W": width, "TILE_H": rows, "TILE_C": channels}


def options(mode: str, table: Table) -> dict[str, Any]:
    return {**OPTIONS, "num_warps": table[mode][2]}


def backward_pack(mode: str, fixed_point: bool, capability: tuple[int, int]) -> int:
    """Channels of a pack in the backward, where they are aligned.

    Fixed-point numbers are added one by one; floats, and all that is read with them, in packs of 16 bytes. Before sm_90
    floats are added one by one too, each through a pointer of its own, which are too many for 4 of 16 taps.
    """
    if fixed_point:
        return 1
    return 2 if mode == "bicubic" and capability < (9, 0) else PACK_BYTES // 4


def variants(capability: tuple[int, int] = (9, 0)) -> Iterator[Variant]:
    """What ships: ``(kernel, signature, constants, options, wanted)``, wanted in machine code.

    Of variants that differ in their padding only, every dtype and layout has reflection, the longest; bfloat16 with
    channels last has all.
    """
    elements = {"*fp32": 4, "*bf16": 2, "*fp16": 2, "*u8": 1}
    layouts = ((False, False, 3), (True, False, 3), (True, True, 64))  # channels last, aligned, channels
    for element, layout, mode in product(elements, layouts, FORWARD):
        every = element == "*bf16" and layout[1]
        for padding in ("zeros", "border", "reflection") if every else ("reflection",):
            yield _forward_variant(mode, padding, element, elements[element], layout)
            for fixed_point in (False, True) if element != "*u8" else ():
                pack = backward_pack(mode, fixed_point, capability)
                variant = _backward_variant(mode, padding, element, layout, pack, fixed_point)
                vectors = not fixed_point and layout[1] and pack == 4 and capability >= (9, 0)
                bits = 8 * elements[element] * (pack if layout[1] else 1)
                loads = (rf"LDG\.E\.{bits}",) if bits > 32 and mode != "nearest" else ()
                yield *variant, (r"RED\S*F32x4" if vectors else r"RED|ATOM", *loads)


def _forward_variant(mode: str, padding: str, element: str, size: int, layout: tuple[bool, bool, int]) -> Variant:
    last, aligned, channels = layout
    constants = launch_shape(mode, FORWARD, last, PACK_BYTES // size if aligned else 1, channels)
    constants |= {"PADDING": padding}
    wanted = (r"LDG\.E\.128", r"STG\.E\.128") if aligned else ()
    return forward_kernel, _signature(forward_kernel, element, constants), constants, options(mode, FORWARD), wanted


def _backward_variant(
    mode: str, padding: str, element: str, layout: tuple[bool, bool, int], pack: int, fixed_point: bool
) -> tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]:
    last, aligned, channels = layout
    constants = launch_shape(mode, BACKWARD, last, pack if aligned else 1, channels)
    constants |= {"PADDING": padding} | ({} if fixed_point else {"scale": None})
    types = _signature(backward_kernel, element, constants, "*i64" if fixed_point else "*fp32")
    return backward_kernel, types, constants, options(mode, BACKWARD)


def _signature(kernel: Any, element: str, constants: dict[str, Any], gradient: str = "") -> dict[str, str]:
    types = dict.fromkeys(("image", "out", "grad_out"), element) | {"grad_image": gradient, "mask": "*u8"}
    types |= {"homography": "*fp32", "grad_homography": "*fp32", "scale": "*fp64", "coordinate_limit": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    return {name: types.get(name, "i32") for name in kernel.arg_names}
