"""Resampling of an image through a homography."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import autocast, check_choice, check_device, check_shapes, compute_dtype
from ..common.layout import empty_like_layout
from ..common.reference_sampling import anywhere, project
from ..common.registry import REFERENCE, Op, cpu_backend, cuda_backend, register, triton_backend

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
        input: ``(B, C, H, W)``, floating point or uint8, in any memory layout; channels last is kept. Bytes are
            interpolated in float32, rounded to nearest (ties to even) and clamped to 0..255.
        homography: ``(B, 3, 3)`` or ``(3, 3)``, any floating dtype; coordinates are computed in float32 (float64 for
            float64 input).
        size: ``(height, width)`` of the output; the input's by default.
        mode: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        padding: ``"zeros"``, ``"border"`` or ``"reflection"``.
        return_mask: also return where the output is backed by the input.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``; None takes the first that can.

    Returns:
        ``(B, C, *size)`` in input's dtype; with ``return_mask`` also a boolean ``(B, *size)``, True where the point is
        in front and within the centres of the input's border pixels. Differentiable in input and homography; a uint8
        input has no gradient, and gives none to the homography.

    Raises:
        ValueError: a shape, dtype, device, mode, padding or size is wrong; the message names it.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> aligned, valid = vsad.ops.homography_warp(source, H_source_from_target, return_mask=True)

    Source: projective texture mapping, as in kornia's ``homography_warp``.
    """
    (input,) = autocast(input)
    homography = homography[None] if isinstance(homography, Tensor) and homography.ndim == 2 else homography
    sizes = check_shapes(NAME, input=(input, "B C H W"), homography=(homography, "Bh 3 3"))
    if not input.is_floating_point() and input.dtype != torch.uint8:
        raise ValueError(f"{NAME}: input must be floating point or uint8, got {input.dtype}; call .float()")
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
    homography = homography.to(compute_dtype(input.dtype))
    chosen = OP.choose(input, homography, backend=backend, mode=mode, padding=padding)
    if chosen == REFERENCE:
        out, mask = reference(input, homography, size, mode, padding)
    else:
        out, mask = _HomographyWarp.apply(input, homography, size, mode, padding, chosen)
    return (out, mask) if return_mask else out


def reference(
    input: Tensor, homography: Tensor, size: tuple[int, int], mode: str, padding: str
) -> tuple[Tensor, Tensor]:
    """The definition, on ``grid_sample``."""
    B, _, H, W = input.shape
    sx, sy, front = project(homography, size, anywhere(homography.dtype, (H, W)), (H, W))
    mask = front & (sx >= 0) & (sx <= W - 1) & (sy >= 0) & (sy <= H - 1)
    if 0 in (B, *size):
        return input.new_zeros((B, input.shape[1], *size)), mask.expand(B, *size)
    # grid_sample in its own units, in the coordinates' precision: half a pixel is 1 / size
    grid = torch.stack([(2 * sx + 1) / W - 1, (2 * sy + 1) / H - 1], dim=-1).expand(B, -1, -1, -1)
    out = F.grid_sample(input.to(grid.dtype), grid, mode=mode, padding_mode=padding, align_corners=False)
    out = torch.where(front[:, None], out, 0)
    if not input.is_floating_point():
        out = out.detach().round().clamp(0, 255)  # round() takes ties to the even neighbour
    return out.to(input.dtype), mask.expand(B, *size)


torch.library.define(
    "vsad::homography_warp_fwd",
    "(Tensor input, Tensor homography, SymInt[] size, str mode, str padding, str backend) -> (Tensor, Tensor)",
)
torch.library.define(
    "vsad::homography_warp_bwd",
    "(Tensor grad_out, Tensor input, Tensor homography, str mode, str padding, bool[] needs, str backend) "
    "-> (Tensor, Tensor)",
)


@torch.library.impl("vsad::homography_warp_fwd", "CompositeExplicitAutograd")
def _forward(
    input: Tensor, homography: Tensor, size: list[int], mode: str, padding: str, backend: str
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = OP.backend(backend).load().forward(input, homography, size, mode, padding)
    return result


@torch.library.impl("vsad::homography_warp_bwd", "CompositeExplicitAutograd")
def _backward(
    grad_out: Tensor, input: Tensor, homography: Tensor, mode: str, padding: str, needs: list[bool], backend: str
) -> tuple[Tensor, Tensor]:
    module = OP.backend(backend).load()
    result: tuple[Tensor, Tensor] = module.backward(grad_out, input, homography, mode, padding, needs)
    return result


@torch.library.register_fake("vsad::homography_warp_fwd")
def _(input: Tensor, homography: Tensor, size: list[int], *_: str) -> tuple[Tensor, Tensor]:
    B, C = input.shape[:2]
    out = empty_like_layout(input, C, size=(size[0], size[1]))
    return out, input.new_empty((B, *size), dtype=torch.bool)


@torch.library.register_fake("vsad::homography_warp_bwd")
def _(
    grad_out: Tensor, input: Tensor, homography: Tensor, mode: str, padding: str, needs: list[bool], backend: str
) -> tuple[Tensor, Tensor]:
    return (
        empty_like_layout(input, input.shape[1]) if needs[0] else input.new_empty((0,)),
        homography.new_empty(homography.shape if needs[1] else (0,)),
    )


_fwd = torch.ops.vsad.homography_warp_fwd.default
_bwd = torch.ops.vsad.homography_warp_bwd.default


class _HomographyWarp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, homography: Tensor, size: Any, *options: str) -> tuple[Tensor, Tensor]:
        out, mask = _fwd(input, homography, size, *options)
        ctx.save_for_backward(input, homography)
        ctx.options = options
        ctx.mark_non_differentiable(*((mask,) if input.is_floating_point() else (out, mask)))
        return out, mask

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        mode, padding, backend = ctx.options
        needs = list(ctx.needs_input_grad[:2])
        grads = _bwd(grad_out, *ctx.saved_tensors, mode, padding, needs, backend)
        return *(g if need else None for g, need in zip(grads, needs)), None, None, None, None


OP = register(
    Op(
        name=NAME,
        public=homography_warp,
        reference=reference,
        backends=tuple(
            replace(row, dtypes=(*row.dtypes, torch.uint8))
            for row in (cpu_backend(NAME), cuda_backend(NAME), triton_backend(NAME))
        ),
    )
)
