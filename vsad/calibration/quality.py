"""What a fit is worth: its error on held-out matches, the share of the overlap that matches cover, and the gate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vsad.calibration.matching import PLACES, count_places, fit_reweighted, place_of, reprojection_errors
from vsad.geometry import Size, orient_homography, transform_points

# Matches of unrelated views agree in at most 5 places; those of a stereo pair of a cluttered room in 0.6 of all.
MIN_PLACES = 8
_MIN_INLIERS, _MIN_SHARE = 30, 0.4
# In shares of the diagonal: matches along a line leave the rest of the plane free to turn about that line.
_MIN_SPREAD = 0.02
# A half of the matches that predicts the other half by more than so many tolerances fixes no homography.
_MAX_HELD_OUT = 1.0
# Four points fix a homography, and some more check it.
_FEWEST = 6


def why_weak(H: Tensor, target: Tensor, source: Tensor, matches: int, size: Size, tolerance: float) -> str:
    """Say why inliers do not earn a homography a place in a rig; nothing where they do.

    They must be enough, spread over the plane, agree with each other where they were held out, and lie in front of
    both cameras.

    Args:
        H: ``(3, 3)`` float64, source from target.
        target: ``(K, 2)``, the inliers in the target.
        source: ``(K, 2)``, the same in the source.
        matches: number of matches, inliers or not.
        size: ``(height, width)`` of either view.
        tolerance: reprojection error of an inlier in pixels, at most.
    """
    inliers, places = len(target), count_places(target, size)
    if inliers < max(_MIN_INLIERS, _MIN_SHARE * matches):
        return f"only {inliers} of {matches} matches agree"
    if places < MIN_PLACES:
        return f"the matches that agree lie in {places} of {PLACES**2} places only"
    for points in (target, source):
        spread = torch.linalg.svdvals(points - points.mean(0))[-1] / math.sqrt(inliers)
        if spread < _MIN_SPREAD * math.hypot(*size):
            return "the matches that agree lie along a line"
    # Cameras that look at the surface have it in front of their image centers, as the matches are.
    if not all(torch.equal(orient_homography(G, size), G) for G in (H, torch.linalg.inv(H))):
        return "the matches agree on a surface behind a camera only"
    error = held_out_error(H, target, source, size)
    if not error <= _MAX_HELD_OUT * tolerance:
        return f"one half of the matches misses the other by {error:.1f} px"
    return ""


def held_out_error(H: Tensor, target: Tensor, source: Tensor, size: Size) -> float:
    """Predict each half of the matches from the other, and return the root mean square error in pixels.

    The halves are the black and the white cells of a checkerboard, so that one mark, which several samples show, is
    never on both sides.

    Args:
        H: ``(3, 3)`` float64, source from target, to start from.
        target: ``(K, 2)`` float64.
        source: ``(K, 2)`` float64.
        size: ``(height, width)`` of the target.

    Returns:
        The error; NaN where a half has too few matches.
    """
    black = place_of(target, size).sum(-1) % 2 == 0
    if min(int(black.sum()), int((~black).sum())) < _FEWEST:
        return math.nan
    errors = []
    for half in (black, ~black):
        other = fit_reweighted(target[~half], source[~half], H, math.hypot(*size))
        errors.append(reprojection_errors(other, target[half], source[half]))
    return float(torch.cat(errors).square().mean().sqrt())


def covered_share(H: Tensor, target: Tensor, size: Size) -> float:
    """The share of the places of the target that the source sees in which there are matches.

    Args:
        H: ``(3, 3)`` float64, source from target.
        target: ``(K, 2)``, the matches in the target.
        size: ``(height, width)`` of either view.
    """
    seen, covered = seen_places(H, size), covered_places(target, size)
    return float((seen & covered).sum() / (seen | covered).sum().clamp_min(1))


def covered_places(points: Tensor, size: Size) -> Tensor:
    """The places of a view in which there are points, ``(PLACES, PLACES)`` bool, by row and column."""
    places = torch.zeros(PLACES, PLACES, dtype=torch.bool)
    x, y = place_of(points, size).clamp(0, PLACES - 1).unbind(-1)
    places[y, x] = True
    return places


def seen_places(H: Tensor, size: Size) -> Tensor:
    """The places of the target whose middle the source sees, ``(PLACES, PLACES)`` bool."""
    height, width = size
    steps = (torch.arange(PLACES, dtype=torch.float64) + 0.5) / PLACES
    y, x = torch.meshgrid(steps * height - 0.5, steps * width - 0.5, indexing="ij")
    mapped, in_front = transform_points(H, torch.stack([x, y], -1).reshape(-1, 2), return_mask=True)
    inside = ((mapped >= -0.5) & (mapped <= mapped.new_tensor([width, height]) - 0.5)).all(-1)
    return (in_front & inside).reshape(PLACES, PLACES)
