"""Variants of the Triton kernels of homography_align that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vsad.kernels.homography_align.backward import Gradients, backward_kernel
from vsad.kernels.homography_align.forward import forward_kernel
from vsad.kernels.homography_align.launch_shapes import launch_shape
from vsad.kernels.homography_align.window import Image, Sizes

from . import Variant


def shipped() -> Iterator[tuple[str, int, int, int]]:
    """What is compiled ahead of time: dtype, its bytes, channels of a head, window."""
    for channels, window in ((64, 3), (64, 1), (64, 5), (64, 7), (8, 3), (16, 3), (40, 3), (80, 3), (128, 3), (128, 7)):
        yield "bf16", 2, channels, window
    for channels, window in ((64, 3), (64, 7), (40, 5), (128, 3)):
        yield "fp32", 4, channels, window
    yield "fp16", 2, 64, 3


def variants(capability: tuple[int, int]) -> Iterator[Variant]:
    """``:16`` marks what 16 divides, as Triton finds by itself in calls with channels last."""
    for dtype, size, channels, window in shipped():
        yield _forward_variant(dtype, size, channels, window)
    for dtype, size, channels, window in shipped():
        # 49 neighbors in float32 need about ten registers more than a thread has; it runs, and spills those
        may_spill = 40 if (dtype, window) == ("fp32", 7) else 0
        for fixed in (False, True) if (channels, window) == (64, 3) else (False,):
            yield _backward_variant(dtype, size, channels, window, fixed)._replace(may_spill=may_spill)


def _forward_variant(dtype: str, size: int, channels: int, window: int) -> Variant:
    constants: dict[Any, Any] = {"C": channels, "CV": channels, "R": window, "WIDE": False}
    constants |= launch_shape(channels, channels, size, window)
    options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": True}
    types = dict.fromkeys(("query", "key", "value", "out"), _image(dtype)) | _types_of_both()
    types |= dict.fromkeys(("to_peak", "to_log_sum"), "*fp32:16")
    return Variant(forward_kernel, *_signature(forward_kernel, types, constants), options, (r"LDG\.E\.128",))


def _backward_variant(dtype: str, size: int, channels: int, window: int, fixed: bool) -> Variant:
    constants: dict[Any, Any] = {"C": channels, "CV": channels, "R": window, "FIXED": fixed, "WIDE": False}
    constants["QUERY"] = True
    constants |= launch_shape(channels, channels, size, window, backward=True)
    options = {"num_warps": constants.pop("num_warps"), "enable_fp_fusion": True}
    constants |= {"grad_log_sum": None} | ({} if fixed else {"factors": None})
    sums = "*i64:16" if fixed else "*fp32:16"
    types: dict[str, Any] = dict.fromkeys(("query", "key", "value", "grad_out", "grad_query"), _image(dtype))
    types |= _types_of_both() | ({"factors": "*fp64:16"} if fixed else {})
    types["grads"] = Gradients(sums, sums, "*fp32:16", "*fp32:16")
    wanted = (r"LDG\.E\.128", r"RED\S*\.ADD" if fixed else r"RED\S*\.ADD\.F32")
    return Variant(backward_kernel, *_signature(backward_kernel, types, constants), options, wanted)


def _types_of_both() -> dict[str, Any]:
    types: dict[str, Any] = dict.fromkeys(("homography", "bias"), "*fp32:16")
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
