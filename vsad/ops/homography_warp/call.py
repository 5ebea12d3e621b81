"""The arguments of homography_warp, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NAME = "homography_warp"
MODES = ("nearest", "bilinear", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


class WarpCall(NamedTuple):
    """A checked call."""

    input: Tensor  # (B, C, Hs, Ws)
    homography: Tensor  # (B or 1, 3, 3), in the dtype that coordinates are computed in
    size: tuple[int, int]  # height and width of the output
    mode: str
    padding: str
    deterministic: bool
