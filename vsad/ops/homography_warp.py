"""Resampling of an image through a homography."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._check import autocast, check_choice, check_device, check_same, check_shapes, compute_dtype
from ._op import Op, register
from ._sample import project

NAME = "homography_warp"
MODES = ("nearest", "bilinear", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


def homography_warp(
    input: Tensor,
    homography: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding: str = "zeros",
    return_mask: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Resample an image: every output pixel asks the homography where to look in the input.

    ``out(x, y) = input(X / Z, Y / Z)`` with ``(X, Y, Z) = homography (x, y, 1)``.

    Convention:
        The homography maps output (target) pixels to input (source) pixels; kornia and OpenCV's
        ``warpPerspective`` without ``WARP_INVERSE_MAP`` take the opposite direction. The centre of pixel (i, j) is
        x=j, y=i. Points that are not in front (Z > 0) or not finite give 0, whatever the padding. ``"reflection"``
        mirrors at the outer edges of the border pixels; ``"zeros"`` fades over one pixel at the border, as
        ``grid_sample`` does.

    Args:
        input: ``(B, C, H, W)``, floating point.
        homography: ``(B, 3, 3)`` or ``(3, 3)``, any floating dtype; coordinates are computed in float32 (float64 for
            float64 input).
        size: ``(height, width)`` of the output; the input's by default.
        mode: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        padding: ``"zeros"``, ``"border"`` or ``"reflection"``.
        return_mask: also return where the output is backed by the input.
        backend: ``"torch"``; None takes the first that can.

    Returns:
        ``(B, C, *size)`` in input's dtype; with ``return_mask`` also a boolean ``(B, *size)``, True where the point is
        in front and within the centres of the input's border pixels. Differentiable in input and homography.

    Raises:
        ValueError: a shape, dtype, device, mode, padding or size is wrong; the message names it.

    Example:
        >>> aligned, valid = vsad.ops.homography_warp(source, H_source_from_target, return_mask=True)

    Source: projective texture mapping, as in kornia's ``homography_warp``.
    """
    (input,) = autocast(input)
    homography = homography[None] if isinstance(homography, Tensor) and homography.ndim == 2 else homography
    sizes = check_shapes(NAME, input=(input, "B C H W"), homography=(homography, "Bh 3 3"))
    check_same(NAME, input=input)
    check_device(NAME, input=input, homography=homography)
    check_choice(NAME, "mode", mode, MODES)
    check_choice(NAME, "padding", padding, PADDINGS)
    if sizes["Bh"] not in (1, sizes["B"]):
        raise ValueError(f"{NAME}: homography must have batch 1 or B={sizes['B']}, got {sizes['Bh']}")
    if not homography.is_floating_point():
        raise ValueError(f"{NAME}: homography must be floating point, got {homography.dtype}; call .float()")
    size = (sizes["H"], sizes["W"]) if size is None else (int(size[0]), int(size[1]))
    if min(size) < 0 or sizes["H"] == 0 or sizes["W"] == 0:
        raise ValueError(
            f"{NAME}: input must have pixels and size must not be negative, got {list(input.shape)}, {size}"
        )
    OP.choose(input, backend=backend)
    out, mask = reference(input, homography.to(compute_dtype(input.dtype)), size, mode, padding)
    return (out, mask) if return_mask else out


def reference(
    input: Tensor, homography: Tensor, size: tuple[int, int], mode: str, padding: str
) -> tuple[Tensor, Tensor]:
    """The definition, on ``grid_sample``."""
    B, _, H, W = input.shape
    anywhere = torch.finfo(homography.dtype).max / (8 * max(H, W))  # finite, also in grid_sample's units
    sx, sy, front = project(homography, size, anywhere, (H, W))
    mask = front & (sx >= 0) & (sx <= W - 1) & (sy >= 0) & (sy <= H - 1)
    if 0 in (B, *size):
        return input.new_zeros((B, input.shape[1], *size)), mask.expand(B, *size)
    # grid_sample in its own units, in the coordinates' precision: half a pixel is 1 / size
    grid = torch.stack([(2 * sx + 1) / W - 1, (2 * sy + 1) / H - 1], dim=-1).expand(B, -1, -1, -1)
    out = F.grid_sample(input.to(grid.dtype), grid, mode=mode, padding_mode=padding, align_corners=False)
    return torch.where(front[:, None], out, 0).to(input.dtype), mask.expand(B, *size)


OP = register(Op(name=NAME, public=homography_warp, reference=reference, backends=()))
