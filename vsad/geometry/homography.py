"""Homographies as tensors: orientation, scaling, point transfer and overlap."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from vsad.geometry.checks import (
    Size,
    check_homography,
    check_points,
    checked_size,
    coordinate_dtype,
    full_precision,
)


def orient_homography(homography: Tensor, size: Size) -> Tensor:
    """Choose the sign of a homography that puts the center of the target image in front.

    ``H`` and ``-H`` map every point alike, but only one of them gives visible points ``Z > 0``:
    ``H * sign(H[2] . ((W-1)/2, (H-1)/2, 1))``.

    Convention: see ``vsad.geometry``; ``size`` is the size of the **target** image.

    Args:
        homography: ``(..., 3, 3)``.
        size: ``(height, width)`` of the target image.

    Returns:
        ``(..., 3, 3)``, same scale, differentiable. Unchanged where the center lies on the horizon (``Z = 0``) or is
        NaN.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        >>> orient_homography(-torch.eye(3), (4, 6)).diagonal()
        tensor([1., 1., 1.])
    """
    check_homography("orient_homography", homography)
    z = depth_at_center(homography, checked_size("orient_homography", "size", size))
    return torch.where((z < 0)[..., None, None], -homography, homography)


def scale_homography(
    homography: Tensor,
    from_size: Size,
    to_size: Size,
    *,
    source_from_size: Size | None = None,
    source_to_size: Size | None = None,
) -> Tensor:
    """Rewrite a homography between images as the one between their resized versions (features, for example).

    ``H' = S_source @ H @ S_target^-1``, where S resizes by ``s = to / from`` per axis about pixel edges:
    ``x -> (x + 0.5) * s - 0.5``. The image center stays the image center, so an oriented homography stays oriented.

    Convention: see ``vsad.geometry``.

    Args:
        homography: ``(..., 3, 3)``, source from target.
        from_size: ``(height, width)`` of the images that ``homography`` relates.
        to_size: ``(height, width)`` of the images or features that the result relates.
        source_from_size: the same for the source, where it differs from the target; default ``from_size``.
        source_to_size: the same for the source, where it differs from the target; default ``to_size``.

    Returns:
        ``(..., 3, 3)``, differentiable.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        A shift of 8 pixels is a shift of one feature at an eighth of the resolution:

        >>> shift = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> scale_homography(shift, (256, 256), (32, 32))[0]
        tensor([1., 0., 1.])
    """
    op = "scale_homography"
    check_homography(op, homography)
    target_size = checked_size(op, "from_size", from_size)
    target_resized = checked_size(op, "to_size", to_size)
    source_size = checked_size(op, "source_from_size", source_from_size or from_size)
    source_resized = checked_size(op, "source_to_size", source_to_size or to_size)
    homography = homography.to(coordinate_dtype(homography))
    resized_from_source = _resize_matrix(source_size, source_resized, homography)
    target_from_resized = _resize_matrix(target_resized, target_size, homography)
    with full_precision(homography.device):
        return resized_from_source @ homography @ target_from_resized


@overload
def transform_points(homography: Tensor, points: Tensor, *, return_mask: Literal[False] = ...) -> Tensor: ...
@overload
def transform_points(homography: Tensor, points: Tensor, *, return_mask: Literal[True]) -> tuple[Tensor, Tensor]: ...
def transform_points(
    homography: Tensor, points: Tensor, *, return_mask: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Map points through a homography: ``(X, Y, Z) = H (x, y, 1)``, result ``(X/Z, Y/Z)``.

    Convention: see ``vsad.geometry``. The divide is guarded before it happens: a point that is not in front (Z not
    above zero beyond its own rounding error, or NaN) comes back as ``(0, 0)`` with zero gradient, and
    ``return_mask=True`` tells it apart.

    Args:
        homography: ``(..., 3, 3)``.
        points: ``(..., N, 2)``; leading dimensions broadcast against those of ``homography``.
        return_mask: also return which points are in front.

    Returns:
        ``(..., N, 2)``, differentiable in both arguments; with ``return_mask``, the pair ``(points, in_front)`` with
        ``in_front`` bool ``(..., N)``.

    Raises:
        ValueError: a wrong shape.

    Example:
        >>> shift = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> transform_points(shift, torch.tensor([[1.0, 2.0]]))
        tensor([[9., 2.]])
    """
    check_homography("transform_points", homography)
    check_points("transform_points", "points", points)
    dtype = coordinate_dtype(homography, points)
    homography, points = homography.to(dtype), points.to(dtype)
    with full_precision(points.device):
        X, Y, Z = (points @ homography[..., :2].mT + homography[..., None, :, 2]).unbind(-1)
        terms = points.abs() @ homography[..., 2, :2, None].abs() + homography[..., 2:, 2:].abs()  # (..., N, 1)
    # NaN fails the comparison, so it is masked like a point behind the camera.
    in_front = terms[..., 0] * torch.finfo(dtype).eps < Z
    scale = torch.where(in_front, Z, 1).reciprocal()
    mapped = torch.where(in_front[..., None], torch.stack((X * scale, Y * scale), -1), 0)
    return (mapped, in_front) if return_mask else mapped


def overlap_fraction(homography: Tensor, size: Size, source_size: Size | None = None) -> Tensor:
    """Measure the share of target pixels whose projection falls inside the source image.

    Convention: see ``vsad.geometry``; inside means in front and ``0 <= x <= W-1``, ``0 <= y <= H-1``. Sampled on a grid
    of at most 64 x 64 pixels that includes the corners.

    Args:
        homography: ``(..., 3, 3)``, source from target, oriented.
        size: ``(height, width)`` of the target image.
        source_size: size of the source image; default ``size``.

    Returns:
        ``(...)``, between 0 and 1.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        >>> overlap_fraction(torch.eye(3), (32, 32))
        tensor(1.)
    """
    check_homography("overlap_fraction", homography)
    height, width = checked_size("overlap_fraction", "size", size)
    source_height, source_width = checked_size("overlap_fraction", "source_size", source_size or size)
    xs = torch.linspace(0, width - 1, min(width, 64), dtype=torch.float64)
    ys = torch.linspace(0, height - 1, min(height, 64), dtype=torch.float64)
    grid = torch.cartesian_prod(xs, ys).to(homography.device, coordinate_dtype(homography))  # (N, 2)
    mapped, in_front = transform_points(homography, grid, return_mask=True)
    limit = mapped.new_tensor([source_width - 1, source_height - 1])
    inside = in_front & ((mapped >= 0) & (mapped <= limit)).all(-1)
    return inside.to(mapped.dtype).mean(-1)


def translation(x: float, y: float) -> Tensor:
    """The homography ``(3, 3)`` float64 that moves every point by ``(x, y)`` pixels.

    Example:
        >>> translation(2, 3)[0]
        tensor([1., 0., 2.], dtype=torch.float64)
    """
    return torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=torch.float64)


def depth_at_center(homography: Tensor, size: Size) -> Tensor:
    """Return Z at the image center, ``(...)``."""
    (x, y), (h31, h32, h33) = ((size[1] - 1) / 2, (size[0] - 1) / 2), homography[..., 2, :].unbind(-1)
    return h31 * x + h32 * y + h33


def _resize_matrix(from_size: Size, to_size: Size, like: Tensor) -> Tensor:
    """Return the 3x3 map of pixel coordinates under a resize."""
    sy, sx = to_size[0] / from_size[0], to_size[1] / from_size[1]
    rows = [[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
