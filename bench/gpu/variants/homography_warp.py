"""Variants of the Triton kernels of homography_warp that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from vsad.kernels.homography_warp.backward import backward_kernel
from vsad.kernels.homography_warp.forward import forward_kernel
from vsad.kernels.homography_warp.launch_shapes import (
    BACKWARD,
    FORWARD,
    PACK_BYTES,
    backward_pack,
    launch_shape,
    options,
)

from . import Variant


def variants(capability: tuple[int, int]) -> Iterator[Variant]:
    """Of those that differ in their padding only, every dtype and layout has reflection, the longest.

    bfloat16 with channels last has all.
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
                yield variant._replace(wanted=(r"RED\S*F32x4" if vectors else r"RED|ATOM", *loads))


def _forward_variant(mode: str, padding: str, element: str, size: int, layout: tuple[bool, bool, int]) -> Variant:
    last, aligned, channels = layout
    constants = launch_shape(mode, FORWARD, last, PACK_BYTES // size if aligned else 1, channels)
    constants |= {"PADDING": padding}
    wanted = (r"LDG\.E\.128", r"STG\.E\.128") if aligned else ()
    types = _signature(forward_kernel, element, constants)
    return Variant(forward_kernel, types, constants, options(mode, FORWARD), wanted)


def _backward_variant(
    mode: str, padding: str, element: str, layout: tuple[bool, bool, int], pack: int, fixed_point: bool
) -> Variant:
    last, aligned, channels = layout
    constants = launch_shape(mode, BACKWARD, last, pack if aligned else 1, channels)
    constants |= {"PADDING": padding} | ({} if fixed_point else {"scale": None})
    types = _signature(backward_kernel, element, constants, "*i64" if fixed_point else "*fp32")
    return Variant(backward_kernel, types, constants, options(mode, BACKWARD))


def _signature(kernel: Any, element: str, constants: dict[str, Any], gradient: str = "") -> dict[str, str]:
    types = dict.fromkeys(("image", "out", "grad_out"), element) | {"grad_image": gradient, "mask": "*u8"}
    types |= {"homography": "*fp32", "grad_homography": "*fp32", "scale": "*fp64", "coordinate_limit": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    return {name: types.get(name, "i32") for name in kernel.arg_names}
