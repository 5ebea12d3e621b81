"""The public function homography_warp: argument checks and default values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from torch import Tensor

from ..common.checks import (
    autocast_to_float32,
    check_flag,
    check_floating,
    check_shapes,
    check_tensor,
    compute_dtype,
    is_deterministic,
)
from ..common.launches import signature
from .call import NAME, Mode, Padding, WarpCall, check, checked_size
from .registration import LAUNCHES, run


@overload
def homography_warp(
    input: Tensor,
    homography: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: Mode = ...,
    padding: Padding = ...,
    return_mask: Literal[False] = ...,
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> Tensor: ...


@overload
def homography_warp(
    input: Tensor,
    homography: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: Mode = ...,
    padding: Padding = ...,
    return_mask: Literal[True],
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def homography_warp(
    input: Tensor,
    homography: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: Mode = ...,
    padding: Padding = ...,
    return_mask: bool,
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


def homography_warp(
    input: Tensor,
    homography: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: Mode = "bilinear",
    padding: Padding = "zeros",
    return_mask: bool = False,
    deterministic: bool | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Resample an image: every output pixel is read at its projection into the input.

    ``out(x, y) = input(X / Z, Y / Z)`` with ``(X, Y, Z) = homography (x, y, 1)``.

    Convention:
        The homography maps output (target) pixels to input (source) pixels; kornia and OpenCV's
        ``warpPerspective`` without ``WARP_INVERSE_MAP`` take the opposite direction. The center of pixel (i, j) is
        x=j, y=i. Points that are not in front (Z > 0) or not finite give 0, whatever the padding. ``"reflection"``
        mirrors at the outer edges of the border pixels; ``"zeros"`` fades over one pixel at the border, as
        ``grid_sample`` does.

    Args:
        input: ``(B, C, Hs, Ws)``, floating point or uint8, in any memory layout; channels last is kept. Bytes are
            interpolated in float32, rounded to nearest (ties to even) and clamped to 0..255.
        homography: ``(B, 3, 3)`` or ``(3, 3)``, any floating dtype; coordinates are computed in float32 (float64 for
            float64 input).
        size: ``(height, width)`` of the output; the input's by default.
        mode: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        padding: ``"zeros"``, ``"border"`` or ``"reflection"``.
        return_mask: also return the mask of the output pixels that project into the input.
        deterministic: whether the GPU backward gives the same bits on every run; None takes
            ``torch.are_deterministic_algorithms_enabled()``. The CPU backend is always deterministic; CUDA and Triton
            add up the input's gradient in 64-bit integers, which needs twice the memory.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``; None takes the first backend in the table that
            accepts the call.

    Returns:
        ``(B, C, *size)`` in input's dtype; with ``return_mask`` also a boolean ``(B, *size)``, True where the point is
        in front and within the centers of the input's border pixels. Differentiable in input and homography; a uint8
        input has no gradient, and gives none to the homography.

    In torch:
        A NaN of the input reaches the pixels that read it with a weight, if only of zero. Under autocast the warp
        computes and returns float32, as ``grid_sample`` does. Second derivatives run the reference, at its speed.
        ``torch.func.vmap`` joins its batch with the input's; forward-mode differentiation, and a compiled
        ``torch.func.grad``, are offered by ``backend="torch"`` only. On the CPU, Ctrl-C ends a call, usually within 200
        ms; the backward of float16 and bfloat16 adds up in float32, for which each thread needs 8 MB, or as much as up
        to 15 channels of an image (63 with channels last), whichever is more; for an input with channels last, a
        gradient in another layout is copied.

    Raises:
        ValueError: a shape, dtype, device, mode, padding or size is wrong; the message names it.
        TypeError: an argument is not of its type, such as a size that is not of integers.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> source = torch.rand(1, 3, 48, 64)
        >>> source_from_target = torch.tensor([[1.0, 0.0, -8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> aligned, valid = vsad.ops.homography_warp(source, source_from_target, return_mask=True)
        >>> valid.sum(dim=(1, 2))  # the 8 columns on the left look beyond the source
        tensor([2688])

    Source: projective texture mapping, as in kornia's ``homography_warp``.
    """
    known = signature(input, homography, size, mode, padding, return_mask, deterministic, backend)
    launch = LAUNCHES.find(known)
    if launch:
        out, mask = launch(input, homography, return_mask)
        return (out, mask) if return_mask else out
    sizes = check_shapes(NAME, input=(input, "B C Hs Ws"))
    _check_homography(homography, sizes["B"])
    check_flag(NAME, "return_mask", return_mask)
    (input,) = autocast_to_float32(input)
    height, width = (sizes["Hs"], sizes["Ws"]) if size is None else checked_size(size)
    call = WarpCall(
        input=input,
        homography=(homography[None] if homography.ndim == 2 else homography).to(compute_dtype(input.dtype)),
        height=height,
        width=width,
        mode=mode,
        padding=padding,
        deterministic=is_deterministic(NAME, deterministic),
    )
    check(call)
    out, mask = run(call, backend, known)
    return (out, mask) if return_mask else out


def _check_homography(homography: Tensor, B: int) -> None:
    check_tensor(NAME, "homography", homography)
    shape = list(homography.shape)
    if shape not in ([3, 3], [1, 3, 3], [B, 3, 3]):
        raise ValueError(
            f"{NAME}: homography must be [3, 3], or have batch 1 or B={B} in front, got {shape}; give one matrix for "
            f"the whole batch, or one for each of its images"
        )
    check_floating(NAME, "homography", homography)
