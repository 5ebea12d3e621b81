"""Homographies as the offsets of the four image corners, the form in which a network can predict them."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad.geometry.checks import Size, check_homography, checked_size, coordinate_dtype
from vsad.geometry.homography import depth_at_center, transform_points


def image_corners(size: Size, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Return the centers of an image's corner pixels: top left, top right, bottom right, bottom left.

    Args:
        size: ``(height, width)``.
        dtype: dtype of the result.
        device: device of the result.

    Returns:
        ``(4, 2)``, each ``(x, y)``.

    Raises:
        ValueError: a size that is not two positive integers.

    Example:
        >>> image_corners((3, 5)).tolist()
        [[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [0.0, 2.0]]
    """
    height, width = checked_size("image_corners", "size", size)
    right, bottom = width - 1, height - 1
    return torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=dtype, device=device)


def corners_to_homography(offsets: Tensor, size: Size) -> Tensor:
    """Turn four corner offsets into the homography that moves the image corners by them.

    The closed form of the square-to-quadrilateral map, multiplied out so that nothing is divided: every finite
    offset gives a finite homography and finite gradients, which a network that predicts offsets needs.

    Convention: see ``vsad.geometry``; ``offset = source corner - target corner`` in pixels, corners ordered as
    ``image_corners``. The result is oriented, with Z = 1 at the image center.

    Args:
        offsets: ``(..., 4, 2)``.
        size: ``(height, width)`` of the target image, at least 2 x 2.

    Returns:
        ``(..., 3, 3)``, source from target, differentiable; the inverse of ``homography_to_corners``. It is singular
        where three moved corners lie on a line.

    Raises:
        ValueError: a wrong shape, or an image of one row or column.

    Source: Heckbert, "Fundamentals of texture mapping and image warping", 1989, section 2.2.3.

    Example:
        >>> corners_to_homography(torch.zeros(4, 2), (32, 32)).diagonal()
        tensor([1., 1., 1.])
    """
    op = "corners_to_homography"
    height, width = checked_size(op, "size", size)
    if min(height, width) < 2:
        raise ValueError(f"{op}: size must be at least (2, 2) to have four corners, got {size}")
    if offsets.ndim < 2 or offsets.shape[-2:] != (4, 2):
        raise ValueError(f"{op}: offsets must be [... 4 2], got {list(offsets.shape)}")
    dtype = coordinate_dtype(offsets)
    corners = image_corners(size, dtype=dtype, device=offsets.device)
    unit_from_target = 1 / corners[2]  # the target corners become the unit square
    # In unit coordinates the numbers below are near 1 whatever the image size, as float32 likes.
    x, y = ((corners + offsets.to(dtype)) * unit_from_target).unbind(-1)  # (..., 4) each
    x0, x1, x2, x3 = x.unbind(-1)
    y0, y1, y2, y3 = y.unbind(-1)
    dx1, dy1 = x1 - x2, y1 - y2
    dx2, dy2 = x3 - x2, y3 - y2
    dx3, dy3 = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    g = dx3 * dy2 - dx2 * dy3
    h = dx1 * dy3 - dx3 * dy1
    rows = (
        (x1 - x0) * det + g * x1, (x3 - x0) * det + h * x3, x0 * det,
        (y1 - y0) * det + g * y1, (y3 - y0) * det + h * y3, y0 * det,
        g, h, det,
    )  # fmt: skip
    H_unit = torch.stack(rows, -1).reshape(*det.shape, 3, 3)
    diagonal = torch.cat((unit_from_target, torch.ones_like(unit_from_target[:1])))
    H: Tensor = H_unit * diagonal / diagonal[:, None]
    z = depth_at_center(H, (height, width))
    z = torch.where(z.abs() > torch.finfo(dtype).eps, z, 1)
    return H / z[..., None, None]


def homography_to_corners(homography: Tensor, size: Size) -> Tensor:
    """Express a homography as the offsets of the four image corners.

    ``offset = H(corner) - corner``; the inverse of ``corners_to_homography``.

    Convention: see ``vsad.geometry``; corners ordered as ``image_corners``.

    Args:
        homography: ``(..., 3, 3)``, source from target, oriented.
        size: ``(height, width)`` of the target image.

    Returns:
        ``(..., 4, 2)`` in pixels, differentiable. Four offsets describe only a homography with all four corners in
        front: test it with ``transform_points(H, image_corners(size), return_mask=True)``.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        >>> shift = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> homography_to_corners(shift, (32, 32))[0]
        tensor([8., 0.])
    """
    check_homography("homography_to_corners", homography)
    corners = image_corners(size, dtype=coordinate_dtype(homography), device=homography.device)
    return transform_points(homography, corners) - corners
