"""The arguments of homography_warp, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..common.checks import check_choice, check_device, check_shapes, compute_dtype, integer
from ..common.layout import empty_like_layout

NAME = "homography_warp"
Mode = Literal["nearest", "bilinear", "bicubic"]
Padding = Literal["zeros", "border", "reflection"]
MODES: tuple[Mode, ...] = get_args(Mode)
PADDINGS: tuple[Padding, ...] = get_args(Padding)


class WarpCall(NamedTuple):
    """A checked call."""

    input: Tensor  # (B, C, Hs, Ws)
    homography: Tensor  # (B or 1, 3, 3), in the dtype that coordinates are computed in
    height: int  # of the output
    width: int
    mode: str
    padding: str
    deterministic: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.height, self.width


def check(call: WarpCall) -> None:
    """Raises a ValueError or TypeError that names the argument which does not fit."""
    input, homography = call.input, call.homography
    sizes = check_shapes(NAME, input=(input, "B C Hs Ws"), homography=(homography, "batch 3 3"))
    if sizes["batch"] not in (1, sizes["B"]):
        raise ValueError(
            f"{NAME}: homography must have batch 1 or B={sizes['B']}, got {list(homography.shape)}; give one matrix "
            f"for the whole batch, or one for each of its images"
        )
    if not input.is_floating_point() and input.dtype != torch.uint8:
        raise ValueError(f"{NAME}: input must be floating point or uint8, got {input.dtype}; call .float()")
    if homography.dtype != compute_dtype(input.dtype):
        raise ValueError(f"{NAME}: homography must be {compute_dtype(input.dtype)}, got {homography.dtype}")
    check_device(NAME, input=input, homography=homography)
    check_choice(NAME, "mode", call.mode, MODES)
    check_choice(NAME, "padding", call.padding, PADDINGS)
    if sizes["Hs"] == 0 or sizes["Ws"] == 0:
        raise ValueError(f"{NAME}: input must have at least one pixel, got {list(input.shape)}")
    if call.height < 1 or call.width < 1:
        raise ValueError(f"{NAME}: size must be (height, width), both at least 1, got {call.size}")


def empty(call: WarpCall) -> tuple[Tensor, Tensor]:
    """Uninitialized ``out (B, C, *size)`` in input's dtype and layout, and the boolean mask ``(B, *size)``."""
    out = empty_like_layout(call.input, call.input.shape[1], size=call.size)
    return out, call.input.new_empty((call.input.shape[0], *call.size), dtype=torch.bool)


def checked_size(size: object) -> tuple[int, int]:
    """``size`` as two ints."""
    if isinstance(size, (list, tuple)):
        if len(size) != 2:
            raise ValueError(f"{NAME}: size must be (height, width), both at least 1, got {size}")
        return integer(NAME, "size[0]", size[0]), integer(NAME, "size[1]", size[1])
    example = f"; use ({size}, {size})" if isinstance(size, int) else ""
    raise TypeError(f"{NAME}: size must be (height, width), two integers, got {size!r}{example}")
