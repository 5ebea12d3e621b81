"""How one sample lies, relative to the canonical one, and what a believable motion is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vsad.geometry import Size, image_corners, transform_points

# A product that moves in its plane keeps its size; a lift by half the camera's distance would change it so much.
_SCALES = (0.5, 2.0)
# The eigenvalues of a rigid motion in the plane lie on one circle; those of fits to matches do within a factor 1.01.
_MAX_EIGENVALUE_RATIO = 1.5


class Pose(NamedTuple):
    """How a sample lies: in every view the homography from the canonical picture's pixels to the sample's.

    Args:
        H_sample_from_canonical: ``(V, 3, 3)`` float64, oriented, in pixels of the images; the identity where the
            sample could not be registered.
        inliers: number of matches of all views that agree with the one motion.
        error_px: their root mean square reprojection error in pixels of the images; NaN without inliers.
        reason: why the sample is scored without registration; None when it is registered.
    """

    H_sample_from_canonical: Tensor
    inliers: int
    error_px: float
    reason: str | None


def why_implausible(motion: Tensor, H_view_from_reference: Tensor, points: Tensor, size: Size) -> str | None:
    """Tell why a homography cannot be the motion of a flat product in its plane, or None.

    A rigid motion G has the eigenvalues ``exp(i t), exp(-i t), 1``, and so has every picture ``P G P^-1`` of it,
    whatever the camera: three moduli that are alike up to the scale of the matrix. No metric of the plane is needed.

    Args:
        motion: ``(3, 3)`` float64, sample from canonical in the reference view.
        H_view_from_reference: ``(V, 3, 3)`` float64 of the views that share the motion.
        points: ``(K, 2)`` float64, what the motion was fitted to, in the canonical picture of the reference view.
        size: ``(height, width)`` of the views.

    Returns:
        The reason in words, or None.
    """
    if not torch.isfinite(motion).all():
        return "the matches fix no motion"
    depth = torch.cat([points, torch.ones_like(points[:, :1])], -1) @ motion[2]
    determinant = torch.linalg.det(motion)
    if not (determinant > 0 and bool((depth > 0).all())):
        return "the matches agree on a reflection, which no motion in the plane is"
    scales = (determinant / depth**3).sqrt()
    if not bool(((scales > _SCALES[0]) & (scales < _SCALES[1])).all()):
        return f"the product's size would change beyond {_SCALES[0]:g} to {_SCALES[1]:g} times"
    moduli = torch.linalg.eigvals(motion).abs()
    if float(moduli.max() / moduli.min()) > _MAX_EIGENVALUE_RATIO:
        return "the matches agree on a distortion, which is no motion in the plane"
    H = motion_in_views(motion, H_view_from_reference)
    corners = image_corners(size, dtype=H.dtype)
    for direction in (H, torch.linalg.inv(H)):
        if not transform_points(direction, corners, return_mask=True)[1].all():
            return "the horizon of the motion crosses the picture"
    return None


def motion_in_views(motion: Tensor, H_view_from_reference: Tensor) -> Tensor:
    """Carry one motion into every view: ``W_j = H_jr M H_jr^-1``, ``(V, 3, 3)``, its sign that of M."""
    return H_view_from_reference @ motion @ torch.linalg.inv(H_view_from_reference)


def nearest_similarity(motion: Tensor, size: Size) -> Tensor:
    """Return the turn, scale and shift ``(3, 3)`` that take the pixels of ``size`` to where ``motion`` takes them.

    Least squares over a grid of pixels, ``min sum |a z + b - M z|^2`` with complex a and b.
    """
    y, x = (torch.linspace(0, length - 1, 5, dtype=torch.float64) for length in size)
    before = torch.cartesian_prod(x, y)
    after = transform_points(motion, before)
    z, w = torch.view_as_complex(before), torch.view_as_complex(after)
    centered = z - z.mean()
    a = (centered.conj() * w).sum() / centered.abs().square().sum()
    b = w.mean() - a * z.mean()
    rows = [[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)
