"""Find the one motion in matches of which many are wrong, and say why where there is none to believe."""

from __future__ import annotations

import cv2
import torch
from torch import Tensor

from vsad.calibration.matching import reprojection_errors
from vsad.geometry import Size, orient_homography
from vsad.registration.pose import why_implausible

# In working pixels, the reprojection error of a right match.
TOLERANCE = 1.5
# Matches of unrelated pictures agree in fewer; a place is a cell of a grid with this many cells a side.
_MIN_INLIERS, _MIN_PLACES, _PLACES = 12, 6, 16
# Of all matches the share that must agree: a third at least where the motion is right, an eighth on a checkerboard.
_MIN_SHARE = 0.2
# With one right match in five, 3000 samples of four miss the motion once in 120 times; 60 ms at most.
_ITERATIONS, _RIVAL_ITERATIONS = 3000, 300
# A second motion is a rival where this share as many matches agree with it: mutual nearest features take the side of
# the symmetry that shows a few of them better.
_RIVAL = 0.2


def find_motions(
    target: Tensor, source: Tensor, H_view_from_reference: Tensor, size: Size
) -> tuple[list[Tensor], str | None]:
    """Find the motion that most matches agree with, and a rival that nearly as many others agree with.

    Products of some symmetry match in more than one way; which is right, the pictures must tell.

    Args:
        target: canonical points ``(K, 2)`` float64 in the reference view.
        source: the sample's.
        H_view_from_reference: of the views that share the motion.
        size: ``(height, width)`` of the views.

    Returns:
        The motions, sample from canonical, ``(3, 3)`` float64 each; and where there is none, why.
    """
    motion, reason = _fit(target, source, H_view_from_reference, size, _ITERATIONS)
    if motion is None:
        return [], reason
    errors = reprojection_errors(motion, target, source)
    agree = errors < TOLERANCE
    near = errors < 3 * TOLERANCE
    motions = [motion]
    if int((~near).sum()) >= max(_MIN_INLIERS, _RIVAL * int(agree.sum())):
        rival, _ = _fit(target[~near], source[~near], H_view_from_reference, size, _RIVAL_ITERATIONS)
        if rival is not None and count_inliers(rival, target, source) >= _RIVAL * int(agree.sum()):
            motions.append(rival)
    return motions, None


def is_turned_over(target: Tensor, source: Tensor, size: Size) -> bool:
    """Tell whether matches with mirrored features agree on a reflection."""
    H, inliers = _sample_consensus(target, source, _ITERATIONS, mirrored=True)
    enough = int(inliers.sum()) >= max(_MIN_INLIERS, _MIN_SHARE * len(target))
    return H is not None and enough and _places(target[inliers], size) >= _MIN_PLACES


def count_inliers(motion: Tensor, target: Tensor, source: Tensor) -> int:
    """Count the matches that agree with a motion."""
    return int((reprojection_errors(motion, target, source) < TOLERANCE).sum())


def _fit(
    target: Tensor, source: Tensor, H_view_from_reference: Tensor, size: Size, iterations: int
) -> tuple[Tensor | None, str | None]:
    """Fit one motion to matches in the reference view, or tell why it cannot be believed."""
    if len(target) < _MIN_INLIERS:
        return None, f"too few features match, {len(target)} in all views together"
    H, inliers = _sample_consensus(target, source, iterations)
    count = int(inliers.sum())
    if H is None or count < max(_MIN_INLIERS, _MIN_SHARE * len(target)):
        return None, f"too few matches agree on a motion, {count} of {len(target)}"
    places = _places(target[inliers], size)
    if places < _MIN_PLACES:
        return None, f"the matches that agree lie in too few places, {places}"
    H = orient_homography(H, size)
    reason = why_implausible(H, H_view_from_reference, target[inliers], size)
    return (H, None) if reason is None else (None, reason)


def _sample_consensus(
    target: Tensor, source: Tensor, iterations: int, *, mirrored: bool = False
) -> tuple[Tensor | None, Tensor]:
    """MAGSAC++ as ``vsad.calibration`` runs it, but once, and with fewer samples: this runs for every sample.

    OpenCV refuses samples of four points that turn the other way in the source, so it never finds a reflection.
    """
    none = torch.zeros(len(target), dtype=torch.bool)
    if len(target) < 4:
        return None, none
    flip = torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0], dtype=torch.float64)
    params = cv2.UsacParams()
    params.confidence, params.maxIterations, params.threshold = 0.999, iterations, TOLERANCE
    params.score, params.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_INNER_LO
    params.sampler = cv2.SAMPLING_UNIFORM
    found, _ = cv2.findHomography(target.numpy(), (source * flip[:2]).numpy(), params)
    if found is None:
        return None, none
    H = flip[:, None] * torch.from_numpy(found)
    return H, reprojection_errors(H, target, source) < TOLERANCE


def _places(points: Tensor, size: Size) -> int:
    """Count the cells of a grid over the reference view in which there are points."""
    cell = torch.tensor([size[1], size[0]], dtype=points.dtype) / _PLACES
    return len(torch.unique((points / cell).floor(), dim=0))
