"""Fitting a homography to pairs of points."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad.geometry.checks import check_points, coordinate_dtype, full_precision


def homography_from_points(target_points: Tensor, source_points: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Fit the homography that maps target points to source points, by the normalized direct linear transform.

    Both point sets are centered and scaled to mean distance ``sqrt(2)``. Each pair gives the equations
    ``h1.p - u h3.p = 0`` and ``h2.p - v h3.p = 0``, solved in the least-squares sense by QR with ``h33 = 1``. Fixing
    ``h33`` is safe here: it is Z at the weighted centroid of the targets, the mean of the points' own Z, so it is
    positive whenever the points are in front.

    Convention: see ``vsad.geometry``. The result is oriented for its points (Z = 1 at their centroid).

    Args:
        target_points: ``(..., N, 2)``, N >= 4, no three of some four points on a line.
        source_points: ``(..., N, 2)``.
        weights: ``(..., N)``, non-negative, of the squared algebraic error; default 1. Zero leaves a point out.

    Returns:
        ``(..., 3, 3)``, differentiable in the points and in positive weights. Points that fix no homography
        (collinear, repeated, fewer than four positive weights) give a singular or non-finite result: check with
        ``torch.linalg.cond``.

    Raises:
        ValueError: fewer than four points, or shapes that disagree.

    Source: Hartley, "In defense of the eight-point algorithm", 1997.

    Example:
        >>> from vsad.geometry import transform_points
        >>> square = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
        >>> H = homography_from_points(square, 2 * square + 1)
        >>> transform_points(H, torch.tensor([[3.0, 1.0]])).round(decimals=4)
        tensor([[7., 3.]])
    """
    op = "homography_from_points"
    check_points(op, "target_points", target_points)
    check_points(op, "source_points", source_points)
    N = target_points.shape[-2]
    if N < 4:
        raise ValueError(f"{op}: target_points must be at least 4 points, got {N}; match more points")
    if source_points.shape[-2] != N:
        raise ValueError(f"{op}: source_points must be [... {N} 2], got {list(source_points.shape)}")
    dtype = coordinate_dtype(target_points, source_points)
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
    normal_from_target = _similarity(target_scale, -target_scale * target_center)
    with full_precision(A.device):
        Q, R = torch.linalg.qr(A)
        h = torch.linalg.solve_triangular(R, Q.mT @ b, upper=True)[..., 0]  # (..., 8)
        H = torch.cat((h, torch.ones_like(h[..., :1])), -1).reshape(*h.shape[:-1], 3, 3)
        return _similarity(1 / source_scale, source_center) @ H @ normal_from_target


def _normalized(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points with weighted centroid 0 and mean distance sqrt(2) from it, their centroid and the scale."""
    share = (weights / weights.sum(-1, keepdim=True))[..., None]
    center = (points * share).sum(-2)
    shifted = points - center[..., None, :]
    scale = 2**0.5 / (torch.linalg.vector_norm(shifted, dim=-1, keepdim=True) * share).sum(-2)
    return shifted * scale[..., None], center, scale


def _similarity(scale: Tensor, shift: Tensor) -> Tensor:
    """Return the 3x3 map ``x -> scale * x + shift``."""
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    entries = (scale, zero, shift[..., :1], zero, scale, shift[..., 1:], zero, zero, one)
    return torch.cat(entries, -1).reshape(*scale.shape[:-1], 3, 3)
