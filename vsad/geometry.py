"""Homographies as tensors: orientation, scaling, fitting, corner offsets and point transfer.

Convention of the whole package: pixel coordinates are `(x, y)` and the center of pixel `(i, j)` is `x=j, y=i`;
sizes are `(height, width)`; `H_source_from_target` maps target pixels to source pixels, because an output pixel
asks where to look. (OpenCV and kornia warp with the opposite direction.) A point is *in front* when its
homogeneous `Z > 0`. Coordinates are computed in float32, and in float64 for float64 input.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

Size = tuple[int, int]


def orient_homography(homography: Tensor, size: Size) -> Tensor:
    """Choose the sign of a homography that puts the center of the target image in front.

    `H` and `-H` map every point alike, but only one of them gives visible points `Z > 0`:
    `H * sign(H[2] . ((W-1)/2, (H-1)/2, 1))`.

    Convention: see the module; `size` is the size of the **target** image.

    Args:
        homography: `(..., 3, 3)`.
        size: `(height, width)` of the target image.

    Returns:
        `(..., 3, 3)`, same scale, differentiable. Unchanged where the center lies on the horizon (`Z = 0`) or is NaN.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        >>> orient_homography(-torch.eye(3), (4, 6)).diagonal()
        tensor([1., 1., 1.])
    """
    _check_homography("orient_homography", homography)
    z = _depth_at_center(homography, _checked_size("orient_homography", "size", size))
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

    `H' = S_source @ H @ S_target^-1`, where S resizes by `s = to / from` per axis about pixel edges:
    `x -> (x + 0.5) * s - 0.5`. The image center stays the image center, so an oriented homography stays oriented.

    Convention: see the module.

    Args:
        homography: `(..., 3, 3)`, source from target.
        from_size: `(height, width)` of the images that `homography` relates.
        to_size: `(height, width)` of the images or features that the result relates.
        source_from_size: the same for the source, where it differs from the target; default `from_size`.
        source_to_size: the same for the source, where it differs from the target; default `to_size`.

    Returns:
        `(..., 3, 3)`, differentiable.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        A shift of 8 pixels is a shift of one feature at an eighth of the resolution:

        >>> shift = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> scale_homography(shift, (256, 256), (32, 32))[0]
        tensor([1., 0., 1.])
    """
    op = "scale_homography"
    _check_homography(op, homography)
    target_size = _checked_size(op, "from_size", from_size)
    target_resized = _checked_size(op, "to_size", to_size)
    source_size = _checked_size(op, "source_from_size", source_from_size or from_size)
    source_resized = _checked_size(op, "source_to_size", source_to_size or to_size)
    homography = homography.to(_coordinate_dtype(homography))
    resized_from_source = _resize_matrix(source_size, source_resized, homography)
    return resized_from_source @ homography @ _resize_matrix(target_resized, target_size, homography)


@overload
def transform_points(homography: Tensor, points: Tensor, *, return_mask: Literal[False] = ...) -> Tensor: ...
@overload
def transform_points(homography: Tensor, points: Tensor, *, return_mask: Literal[True]) -> tuple[Tensor, Tensor]: ...
def transform_points(
    homography: Tensor, points: Tensor, *, return_mask: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Map points through a homography: `(X, Y, Z) = H (x, y, 1)`, result `(X/Z, Y/Z)`.

    Convention: see the module. The divide is guarded before it happens: a point that is not in front (Z not above
    zero beyond its own rounding error, or NaN) comes back as `(0, 0)` with zero gradient, and `return_mask=True`
    tells it apart.

    Args:
        homography: `(..., 3, 3)`.
        points: `(..., N, 2)`; leading dimensions broadcast against those of `homography`.
        return_mask: also return which points are in front.

    Returns:
        `(..., N, 2)`, differentiable in both arguments; with `return_mask`, the pair `(points, in_front)` with
        `in_front` bool `(..., N)`.

    Raises:
        ValueError: a wrong shape.

    Example:
        >>> shift = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> transform_points(shift, torch.tensor([[1.0, 2.0]]))
        tensor([[9., 2.]])
    """
    _check_homography("transform_points", homography)
    _check_points("transform_points", "points", points)
    dtype = _coordinate_dtype(homography, points)
    homography, points = homography.to(dtype), points.to(dtype)
    X, Y, Z = (points @ homography[..., :2].mT + homography[..., None, :, 2]).unbind(-1)
    terms = points.abs() @ homography[..., 2, :2, None].abs() + homography[..., 2:, 2:].abs()  # (..., N, 1)
    # NaN fails the comparison, so it is masked like a point behind the camera.
    in_front = terms[..., 0] * torch.finfo(dtype).eps < Z
    scale = torch.where(in_front, Z, 1).reciprocal()
    mapped = torch.where(in_front[..., None], torch.stack((X * scale, Y * scale), -1), 0)
    return (mapped, in_front) if return_mask else mapped


def homography_from_points(target_points: Tensor, source_points: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Fit the homography that maps target points to source points, by the normalized direct linear transform.

    Both point sets are centered and scaled to mean distance `sqrt(2)`. Each pair gives the equations
    `h1.p - u h3.p = 0` and `h2.p - v h3.p = 0`, solved in the least-squares sense by QR with `h33 = 1`. Fixing `h33`
    is safe here: it is Z at the weighted centroid of the targets, the mean of the points' own Z, so it is positive
    whenever the points are in front.

    Convention: see the module. The result is oriented for its points (Z = 1 at their centroid).

    Args:
        target_points: `(..., N, 2)`, N >= 4, no three of some four points on a line.
        source_points: `(..., N, 2)`.
        weights: `(..., N)`, non-negative, of the squared algebraic error; default 1. Zero leaves a point out.

    Returns:
        `(..., 3, 3)`, differentiable in the points and in positive weights. Points that fix no homography
        (collinear, repeated, fewer than four positive weights) give a singular or non-finite result: check with
        `torch.linalg.cond`.

    Raises:
        ValueError: fewer than four points, or shapes that disagree.

    Source: Hartley, "In defense of the eight-point algorithm", 1997.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
        >>> H = homography_from_points(square, 2 * square + 1)
        >>> transform_points(H, torch.tensor([[3.0, 1.0]])).round(decimals=4)
        tensor([[7., 3.]])
    """
    op = "homography_from_points"
    _check_points(op, "target_points", target_points)
    _check_points(op, "source_points", source_points)
    N = target_points.shape[-2]
    if N < 4:
        raise ValueError(f"{op}: target_points must be at least 4 points, got {N}; match more points")
    if source_points.shape[-2] != N:
        raise ValueError(f"{op}: source_points must be [... {N} 2], got {list(source_points.shape)}")
    dtype = _coordinate_dtype(target_points, source_points)
    target, source = torch.broadcast_tensors(target_points.to(dtype), source_points.to(dtype))
    if weights is None:
        weights = target.new_ones(target.shape[:-1])
    if weights.ndim == 0 or weights.shape[-1] != N:
        raise ValueError(f"{op}: weights must be [... {N}], one for each point, got {list(weights.shape)}")
    weights = weights.to(dtype).expand(target.shape[:-1])

    p, target_center, target_scale = _normalized(target, weights)  # (..., N, 2), (..., 2), (..., 1)
    q, source_center, source_scale = _normalized(source, weights)
    p = torch.cat((p, torch.ones_like(p[..., :1])), -1)  # (..., N, 3)
    zero = torch.zeros_like(p)
    # The last column, that of h33 = 1, goes to the right-hand side.
    rows_u = torch.cat((p, zero, -q[..., :1] * p[..., :2]), -1)  # (..., N, 8)
    rows_v = torch.cat((zero, p, -q[..., 1:2] * p[..., :2]), -1)
    root = weights.sqrt()[..., None]
    A = torch.cat((rows_u * root, rows_v * root), -2)  # (..., 2N, 8)
    b = torch.cat((q[..., :1] * root, q[..., 1:2] * root), -2)  # (..., 2N, 1)
    Q, R = torch.linalg.qr(A)
    h = torch.linalg.solve_triangular(R, Q.mT @ b, upper=True)[..., 0]  # (..., 8)
    H = torch.cat((h, torch.ones_like(h[..., :1])), -1).reshape(*h.shape[:-1], 3, 3)
    normal_from_target = _similarity(target_scale, -target_scale * target_center)
    return _similarity(1 / source_scale, source_center) @ H @ normal_from_target


def image_corners(size: Size, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Return the centers of an image's corner pixels: top left, top right, bottom right, bottom left.

    Args:
        size: `(height, width)`.
        dtype: of the result.
        device: of the result.

    Returns:
        `(4, 2)`, each `(x, y)`.

    Raises:
        ValueError: a size that is not two positive integers.

    Example:
        >>> image_corners((3, 5)).tolist()
        [[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [0.0, 2.0]]
    """
    height, width = _checked_size("image_corners", "size", size)
    right, bottom = width - 1, height - 1
    return torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=dtype, device=device)


def corners_to_homography(offsets: Tensor, size: Size) -> Tensor:
    """Turn four corner offsets into the homography that moves the image corners by them.

    The closed form of the square-to-quadrilateral map, multiplied out so that nothing is divided: every finite
    offset gives a finite homography and finite gradients, which a network that predicts offsets needs.

    Convention: see the module; `offset = source corner - target corner` in pixels, corners ordered as
    `image_corners`. The result is oriented, with Z = 1 at the image center.

    Args:
        offsets: `(..., 4, 2)`.
        size: `(height, width)` of the target image, at least 2 x 2.

    Returns:
        `(..., 3, 3)`, source from target, differentiable; the inverse of `homography_to_corners`. It is singular
        where three moved corners lie on a line.

    Raises:
        ValueError: a wrong shape, or an image of one row or column.

    Source: Heckbert, "Fundamentals of texture mapping and image warping", 1989, section 2.2.3.

    Example:
        >>> corners_to_homography(torch.zeros(4, 2), (32, 32)).diagonal()
        tensor([1., 1., 1.])
    """
    op = "corners_to_homography"
    height, width = _checked_size(op, "size", size)
    if min(height, width) < 2:
        raise ValueError(f"{op}: size must be at least (2, 2) to have four corners, got {size}")
    if offsets.ndim < 2 or offsets.shape[-2:] != (4, 2):
        raise ValueError(f"{op}: offsets must be [... 4 2], got {list(offsets.shape)}")
    dtype = _coordinate_dtype(offsets)
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
    z = _depth_at_center(H, (height, width))
    z = torch.where(z.abs() > torch.finfo(dtype).eps, z, 1)
    return H / z[..., None, None]


def homography_to_corners(homography: Tensor, size: Size) -> Tensor:
    """Express a homography as the offsets of the four image corners.

    `offset = H(corner) - corner`; the inverse of `corners_to_homography`.

    Convention: see the module; corners ordered as `image_corners`.

    Args:
        homography: `(..., 3, 3)`, source from target, oriented.
        size: `(height, width)` of the target image.

    Returns:
        `(..., 4, 2)` in pixels, differentiable. Four offsets describe only a homography with all four corners in
        front: test it with `transform_points(H, image_corners(size), return_mask=True)`.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        >>> shift = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> homography_to_corners(shift, (32, 32))[0]
        tensor([8., 0.])
    """
    _check_homography("homography_to_corners", homography)
    corners = image_corners(size, dtype=_coordinate_dtype(homography), device=homography.device)
    return transform_points(homography, corners) - corners


def overlap_fraction(homography: Tensor, size: Size, source_size: Size | None = None) -> Tensor:
    """Measure the share of target pixels whose projection falls inside the source image.

    Convention: see the module; inside means in front and `0 <= x <= W-1`, `0 <= y <= H-1`. Sampled on a grid of at
    most 64 x 64 pixels that includes the corners.

    Args:
        homography: `(..., 3, 3)`, source from target, oriented.
        size: `(height, width)` of the target image.
        source_size: of the source image; default `size`.

    Returns:
        `(...)`, between 0 and 1.

    Raises:
        ValueError: a wrong shape or size.

    Example:
        >>> overlap_fraction(torch.eye(3), (32, 32))
        tensor(1.)
    """
    _check_homography("overlap_fraction", homography)
    height, width = _checked_size("overlap_fraction", "size", size)
    source_height, source_width = _checked_size("overlap_fraction", "source_size", source_size or size)
    xs = torch.linspace(0, width - 1, min(width, 64), dtype=torch.float64)
    ys = torch.linspace(0, height - 1, min(height, 64), dtype=torch.float64)
    grid = torch.cartesian_prod(xs, ys).to(homography.device, _coordinate_dtype(homography))  # (N, 2)
    mapped, in_front = transform_points(homography, grid, return_mask=True)
    limit = mapped.new_tensor([source_width - 1, source_height - 1])
    inside = in_front & ((mapped >= 0) & (mapped <= limit)).all(-1)
    return inside.to(mapped.dtype).mean(-1)


def _depth_at_center(homography: Tensor, size: Size) -> Tensor:
    """Return Z at the image center, `(...)`."""
    (x, y), (h31, h32, h33) = ((size[1] - 1) / 2, (size[0] - 1) / 2), homography[..., 2, :].unbind(-1)
    return h31 * x + h32 * y + h33


def _resize_matrix(from_size: Size, to_size: Size, like: Tensor) -> Tensor:
    """Return the 3x3 map of pixel coordinates under a resize."""
    sy, sx = to_size[0] / from_size[0], to_size[1] / from_size[1]
    rows = [[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _normalized(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points with weighted centroid 0 and mean distance sqrt(2) from it, their centroid and the scale."""
    share = (weights / weights.sum(-1, keepdim=True))[..., None]
    center = (points * share).sum(-2)
    shifted = points - center[..., None, :]
    scale = 2**0.5 / (torch.linalg.vector_norm(shifted, dim=-1, keepdim=True) * share).sum(-2)
    return shifted * scale[..., None], center, scale


def _similarity(scale: Tensor, shift: Tensor) -> Tensor:
    """Return the 3x3 map `x -> scale * x + shift`."""
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    entries = (scale, zero, shift[..., :1], zero, scale, shift[..., 1:], zero, zero, one)
    return torch.cat(entries, -1).reshape(*scale.shape[:-1], 3, 3)


def _coordinate_dtype(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _check_homography(op: str, homography: Tensor) -> None:
    if homography.ndim < 2 or homography.shape[-2:] != (3, 3):
        raise ValueError(f"{op}: homography must be [... 3 3], got {list(homography.shape)}")


def _check_points(op: str, name: str, points: Tensor) -> None:
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"{op}: {name} must be [... N 2], each point (x, y), got {list(points.shape)}")


def _checked_size(op: str, name: str, size: Size) -> Size:
    height, width = size if len(size) == 2 else (0, 0)
    if not (int(height) == height > 0 and int(width) == width > 0):
        raise ValueError(f"{op}: {name} must be (height, width), two positive integers, got {size}")
    return int(height), int(width)
