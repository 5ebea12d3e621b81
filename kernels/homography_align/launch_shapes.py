"""Launch shapes of the Triton kernels of homography_align, and the variants that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton

from vsad.kernels.common.geometry import INTERPRETED
from vsad.kernels.common.variants import Variant
from vsad.kernels.homography_align.backward import Gradients, backward_kernel
from vsad.kernels.homography_align.forward import forward_kernel
from vsad.kernels.homography_align.window import Image, Sizes

# Rows (channels of a head up to, fewest and most threads that share a pixel). What a thread keeps of a pixel must fit
# its 255 registers; what it computes for the pixel as a whole, the other threads of the pixel compute too.
FORWARD_LANES = ((64, 2, 4), (256, 2, 8), (1024, 4, 16))
BACKWARD_LANES = ((64, 4, 8), (256, 8, 8), (1024, 8, 16))
WIDE_BACKWARD_LANES = ((1024, 16, 16),)
# Pixels of a program: height and width. 128 are for the interpreter, whose time grows with the number of programs.
TILES = {128: (8, 16), 32: (4, 8), 16: (4, 4), 8: (2, 4)}


def launch_shape(
    channels: int, value_channels: int, element_size: int, window: int, backward: bool = False
) -> dict[str, int]:
    """Tile, blocks of channels and warps: every pixel has one group of threads, each of which loads 16 bytes."""
    table = WIDE_BACKWARD_LANES if backward and window >= 7 else BACKWARD_LANES if backward else FORWARD_LANES
    block, block_v = (channel_block(c, element_size, table) for c in (channels, value_channels))
    lanes = max(max(block, block_v) * element_size // 16, 1)
    threads = 128 if backward else 256
    pixels = 128 if INTERPRETED else min(threads // lanes, 32)
    tile_h, tile_w = TILES[pixels]
    warps = max(pixels * lanes // 32, 1)
    return {"TILE_H": tile_h, "TILE_W": tile_w, "BLOCK": block, "BLOCK_V": block_v, "num_warps": min(warps, 8)}


def channel_block(channels: int, element_size: int, table: tuple[tuple[int, int, int], ...]) -> int:
    """Channels that the threads of a pixel load at once: of the sizes that the table allows, the least wasteful."""
    least, most = next(lanes for limit, *lanes in table if channels <= limit)
    blocks = [lanes * 16 // element_size for lanes in (16, 8, 4, 2) if least <= lanes <= most]
    return min(min(blocks, key=lambda block: -channels % block), int(triton.next_power_of_2(channels)))


def shipped() -> Iterator[tuple[str, int, int, int]]:
    """What is compiled ahead of time: dtype, its bytes, channels of a head, window."""
    for channels, window in ((64, 3), (64, 1), (64, 5), (64, 7), (8, 3), (16, 3), (40, 3), (80, 3), (128, 3), (128, 7)):
        yield "bf16", 2, channels, window
    for channels, window in ((64, 3), (64, 7), (40, 5), (128, 3)):
        yield "fp32", 4, channels, window
    yield "fp16", 2, 64, 3


def variants() -> Iterator[Variant]:
    """Kernel, signature, constants, options and the instructions that it is there for, of all that is shipped.

    ``:16`` marks what 16 divides, as Triton finds by itself in calls with channels last. A constant within a tuple of
    arguments is named by its path.
    """
    for dtype, size, channels, window in shipped():
        yield _forward_variant(dtype, size, channels, window)
    for dtype, size, channels, window in shipped():
        if (dtype, window) == ("fp32", 7):
            continue  # it runs, but spills about ten registers
        for fixed in (False, True) if (channels, window) == (64, 3) else (False,):
            yield _backward_variant(dtype, size, channels, window, fixed)


def _forward_variant(dtype: str, size: int, channels: int, window: int) -> Variant:
    constants: dict[Any, Any] = {"C": channels, "CV": channels, "R": window, "WIDE": False}
    constants |= launch_shape(channels, channels, size, window)
    options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": True}
    types = dict.fromkeys(("query", "key", "value", "out"), _image(dtype)) | _types_of_both()
    return forward_kernel, *_signature(forward_kernel, types, constants), options, (r"LDG\.E\.128",)


def _backward_variant(dtype: str, size: int, channels: int, window: int, fixed: bool) -> Variant:
    constants: dict[Any, Any] = {"C": channels, "CV": channels, "R": window, "FIXED": fixed, "WIDE": False}
    constants |= launch_shape(channels, channels, size, window, backward=True)
    options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": True}
    constants |= {"grad_lse": None} | ({} if fixed else {"factors": None})
    sums = "*i64:16" if fixed else "*fp32:16"
    types: dict[str, Any] = dict.fromkeys(("query", "key", "value", "grad_out"), _image(dtype))
    types |= {"out": _image("fp32")} | _types_of_both() | ({"factors": "*fp64:16"} if fixed else {})
    types["grads"] = Gradients(_image(dtype), sums, sums, "*fp32:16", "*fp32:16")
    wanted = (r"LDG\.E\.128", r"RED\S*\.ADD" if fixed else r"RED\S*\.ADD\.F32")
    return backward_kernel, *_signature(backward_kernel, types, constants), options, wanted


def _types_of_both() -> dict[str, Any]:
    types: dict[str, Any] = dict.fromkeys(("homography", "bias", "lse"), "*fp32:16")
    return types | {"neighbors": "*i64:16", "sizes": Sizes(*["i32"] * len(Sizes._fields)), "scale": "fp32"}


def _image(dtype: str) -> Image:
    """A tensor with channels last, whose other strides 16 divides."""
    return Image(f"*{dtype}:16", b="i32:16", v="i32:16", c="constexpr", h="i32:16", w="i32:16")


def _signature(kernel: Any, types: dict[str, Any], constants: dict[Any, Any]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Types in the order of the kernel's arguments, and the constants with the channel strides of all images."""
    types = types | dict.fromkeys(constants, "constexpr")
    signature = {name: types[name] for name in kernel.arg_names}
    strides = {path: 1 for i, kind in enumerate(signature.values()) for path in _channel_strides(kind, (i,))}
    return signature, constants | strides


def _channel_strides(kind: Any, path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if isinstance(kind, Image):
        yield *path, Image._fields.index("c")
    elif isinstance(kind, tuple):
        for i, inner in enumerate(kind):
            yield from _channel_strides(inner, (*path, i))
