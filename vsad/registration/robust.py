"""Find the one motion in matches of which many are wrong, and say why where there is none to believe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor

from vsad.calibration.matching import count_places, reprojection_errors
from vsad.geometry import Size, orient_homography
from vsad.registration.features import Matches
from vsad.registration.frame import Frame
from vsad.registration.pose import why_implausible

# In working pixels, the reprojection error of a right match.
TOLERANCE = 1.5
# Fewer matches in fewer places fix no motion.
_MIN_INLIERS, _MIN_PLACES = 5, 4
# Matches alone are believed where so many agree, and this share of all: a third at least where the motion is right, an
# eighth on a checkerboard.
_SURE_INLIERS, _SURE_SHARE = 12, 0.2
# Of right matches the features turn alike; perspective, and the noise of their directions, stay within this angle.
_ALIKE = math.radians(25)
# With one right match in five, 3000 samples of four miss the motion once in 120 times.
_ITERATIONS, _RIVAL_ITERATIONS = 3000, 300
# A second motion is a rival where this share as many matches agree with it: mutual nearest features take the side of
# the symmetry that shows a few of them better.
_RIVAL = 0.2


class Candidate(NamedTuple):
    """A motion that matches agree with: sample from canonical in the reference view, ``(3, 3)`` float64.

    Where it is not ``sure``, the matches are too few, or too few of all, to be believed without the pictures.
    """

    motion: Tensor
    sure: bool


def find_motions(matches: Matches, frame: Frame, size: Size) -> tuple[list[Candidate], str | None]:
    """Find the motion that most matches agree with, and a rival that many of the others agree with.

    Products of some symmetry match in more than one way; which is right, the pictures must tell.

    Args:
        matches: of all views of the frame.
        frame: the views that share the motion.
        size: ``(height, width)`` of the views.

    Returns:
        The candidates, and where there is none, why.
    """
    candidates, reason = _fit(matches, len(matches.turn), frame, size, _ITERATIONS)
    if not candidates:
        return [], reason
    errors = reprojection_errors(candidates[0].motion, matches.target, matches.source)
    agree, rest = int((errors < TOLERANCE).sum()), matches.chosen(errors >= 3 * TOLERANCE)
    if len(rest.turn) >= max(_MIN_INLIERS, _RIVAL * agree):
        rivals, _ = _fit(rest, len(matches.turn), frame, size, _RIVAL_ITERATIONS)
        candidates += [rival for rival in rivals[:1] if count_inliers(rival.motion, matches) >= _RIVAL * agree]
    return candidates, None


def is_turned_over(matches: Matches, size: Size) -> bool:
    """Tell whether matches with mirrored features agree on a reflection."""
    H, inliers = _sample_consensus(matches, _ITERATIONS, mirrored=True)
    places = count_places(matches.target[inliers], size)
    return H is not None and _is_sure(int(inliers.sum()), len(matches.turn)) and places >= _MIN_PLACES


def count_inliers(motion: Tensor, matches: Matches) -> int:
    """Count the matches that agree with a motion."""
    return int((reprojection_errors(motion, matches.target, matches.source) < TOLERANCE).sum())


def _fit(matches: Matches, total: int, frame: Frame, size: Size, iterations: int) -> tuple[list[Candidate], str | None]:
    """Fit a motion to some of ``total`` matches in more ways than one.

    A map of fewer parameters than a homography's eight needs fewer right matches, and does not swing beyond them: with
    70 matches that all agree to a pixel, but leave a corner out, homographies were 16 pixels off there. It is rough,
    and the refinement on the pictures does the rest.
    """
    if len(matches.turn) < _MIN_INLIERS:
        return [], f"too few features match, {len(matches.turn)} in all views together"
    matches = matches.chosen(_alike(matches.turn))
    H, inliers = _sample_consensus(matches, iterations)
    answers = [_believed(H, inliers, matches, total, frame, size)]
    sure = isinstance(answers[0], Candidate) and answers[0].sure
    for estimate in (cv2.estimateAffinePartial2D, cv2.estimateAffine2D)[: 1 if sure else 2]:
        answer = _believed(*_rough_consensus(matches, estimate), matches, total, frame, size)
        answers.append(answer if isinstance(answer, str) else Candidate(answer.motion, sure))
    candidates = [answer for answer in answers if isinstance(answer, Candidate)]
    return candidates, None if candidates else str(answers[0])


def _believed(
    H: Tensor | None, inliers: Tensor, matches: Matches, total: int, frame: Frame, size: Size
) -> Candidate | str:
    """Make a candidate of a fit, or tell why it cannot be believed."""
    count = int(inliers.sum())
    if H is None or count < _MIN_INLIERS:
        return f"too few matches agree on a motion, {count} of {total}"
    target = matches.target[inliers]
    places = count_places(target, size)
    if places < _MIN_PLACES:
        return f"the matches that agree lie in too few places, {places}"
    H = orient_homography(H, size)
    return why_implausible(H, frame.H_view_from_reference, target, size) or Candidate(H, _is_sure(count, total))


def _is_sure(count: int, total: int) -> bool:
    return count >= max(_SURE_INLIERS, _SURE_SHARE * total)


def _alike(turn: Tensor) -> Tensor:
    """Choose the matches ``(K,)`` bool that turn as most others do, which wrong ones do by chance only."""
    close = torch.cos(turn[:, None] - turn) > math.cos(_ALIKE)
    return close[close.sum(1).argmax()]


def _sample_consensus(matches: Matches, iterations: int, *, mirrored: bool = False) -> tuple[Tensor | None, Tensor]:
    """MAGSAC++ as ``vsad.calibration`` runs it, but once, and with fewer samples: this runs for every sample.

    OpenCV refuses samples of four points that turn the other way in the source, so it never finds a reflection.
    """
    none = torch.zeros(len(matches.turn), dtype=torch.bool)
    if len(none) < 4:
        return None, none
    flip = torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0], dtype=torch.float64)
    params = cv2.UsacParams()
    params.confidence, params.maxIterations, params.threshold = 0.999, iterations, TOLERANCE
    params.score, params.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_INNER_LO
    params.sampler = cv2.SAMPLING_UNIFORM
    found, _ = cv2.findHomography(matches.target.numpy(), (matches.source * flip[:2]).numpy(), params)
    if found is None:
        return None, none
    H = flip[:, None] * torch.from_numpy(found)
    return H, reprojection_errors(H, matches.target, matches.source) < TOLERANCE


def _rough_consensus(matches: Matches, estimate: Callable[..., Any]) -> tuple[Tensor | None, Tensor]:
    """Fit a similarity or an affine map by RANSAC, as OpenCV's ``estimate`` does, with twice the tolerance."""
    none = torch.zeros(len(matches.turn), dtype=torch.bool)
    if len(none) < 3:
        return None, none
    fitted, _ = estimate(
        matches.target.numpy(), matches.source.numpy(), method=cv2.RANSAC, ransacReprojThreshold=2 * TOLERANCE,
        maxIters=_ITERATIONS, confidence=0.999,
    )  # fmt: skip
    if fitted is None:
        return None, none
    H = torch.cat([torch.from_numpy(fitted), torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    return H, reprojection_errors(H, matches.target, matches.source) < 2 * TOLERANCE
