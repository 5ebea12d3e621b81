"""Fitting one pair of views: a start from matches, then a refinement by matching in the target's frame.

A rough homography comes from SIFT matches, plain and mirrored; then each source is warped into its target's frame and
matched again there, where neither perspective nor reflection is left, which brings the error to a few hundredths of a
pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vsad.calibration.matching import (
    Features,
    count_places,
    detect,
    fit_reweighted,
    fit_robustly,
    foreshorten,
    gray_picture,
    match,
    reprojection_errors,
)
from vsad.checks import check_images
from vsad.geometry import Size, orient_homography, scale_homography, transform_points

# Features are looked for at a long side between these: smaller images have too few, larger ones take too long.
_WORK_SIDE = (256, 800)
# An inlier errs by at most this share of the image diagonal, which is 362 pixels for an image of 256 x 256.
_INLIER = 0.004
# How far a match may lie from its prediction in each pass of the refinement, in shares of the diagonal.
_SEARCH = (0.02, 0.01, 0.008)
# Matches of unrelated views agree in at most 5 places; those of a stereo pair of a cluttered room in 0.6 of all.
_MIN_INLIERS, _MIN_PLACES, _MIN_SHARE = 30, 8, 0.4
# In shares of the diagonal: matches along a line leave the rest of the plane free to turn about that line.
_MIN_SPREAD = 0.02
# Simulated foreshortenings, and the step in degrees between their directions.
_TILTS = ((2.0, 36.0), (4.0, 18.0))


@dataclass(frozen=True)
class PairFit:
    """A homography between two views at working size, and the matches of all samples that agree with it.

    Args:
        method: "direct", "composed" or "tilted": what the refinement started from.
        H_source_from_target: ``(3, 3)`` float64.
        target: ``(K, 2)``, the K inliers in the target view.
        source: ``(K, 2)``, the same in the source view.
        matches: number of matches near their prediction, inliers or not.
    """

    method: str
    H_source_from_target: Tensor
    target: Tensor
    source: Tensor
    matches: int

    def inverse(self) -> PairFit:
        """Return the same fit from the source's side."""
        H_inverse = torch.linalg.inv(self.H_source_from_target)
        return PairFit(self.method, H_inverse, self.source, self.target, self.matches)


class PairFits:
    """The fits that are known so far, by pair of view indices; each serves both directions."""

    def __init__(self) -> None:
        self._fits: dict[tuple[int, int], PairFit] = {}

    def add(self, target: int, source: int, fit: PairFit | None) -> None:
        """Keep the fit of a pair with ``target < source``; None keeps nothing."""
        if fit is not None:
            self._fits[target, source] = fit

    def between(self, target: int, source: int) -> PairFit | None:
        """Return the fit from target to source, where the pair has one in either direction."""
        fit = self._fits.get((min(target, source), max(target, source)))
        return fit.inverse() if fit and target > source else fit


class PairFitter:
    """The images of all samples at working size, their features, and the ways to fit a pair of views.

    ``images`` are grayscale, by sample and view; ``features`` by view and sample; ``size`` is the working size, at
    which features are found, ``image_size`` that of the given images.

    Args:
        views: number of views.
        seed: seed of the robust fits.
    """

    def __init__(self, views: int, seed: int) -> None:
        self.seed = seed
        self.image_size: Size = (0, 0)
        self.size: Size = (0, 0)
        self.images: list[list[np.ndarray]] = []
        self.features: list[list[Features]] = [[] for _ in range(views)]

    def add(self, images: Tensor) -> None:
        """Take one more sample's ``images (V, 3, H, W)``, and find their features.

        Raises:
            TypeError: no tensor of floating point.
            ValueError: a wrong shape, another size than the first sample's, or values that are not in [0, 1].
        """
        V = len(self.features)
        check_images(f"calibrate: sample {len(self.images)}", images, (V, 3, "H", "W"))
        height, width = images.shape[2:]
        if not self.images:
            scale = min(max(height, width, _WORK_SIDE[0]), _WORK_SIDE[1]) / max(height, width)
            self.image_size = (height, width)
            self.size = (round(height * scale) or 1, round(width * scale) or 1)
            self.diagonal = math.hypot(*self.size)
            self.tolerance = _INLIER * self.diagonal
        elif (height, width) != self.image_size:
            raise ValueError(
                f"calibrate: sample {len(self.images)} must be of {self.image_size} pixels (height, width) like the "
                f"first, got {(height, width)}; resize the images to one size"
            )
        self.images.append([gray_picture(image, self.size) for image in images])
        for features, image in zip(self.features, self.images[-1]):
            features.append(detect(image))

    def fit_direct(self, target: int, source: int) -> PairFit | None:
        """Start from matches between the two views as they are."""
        starts = self._starts(self.features[target], self.features[source])
        return self._best("direct", target, source, starts)

    def fit_composed(self, target: int, source: int, fits: PairFits) -> PairFit | None:
        """Start from ``H_source_from_via @ H_via_from_target``."""
        starts = []
        for via in range(len(self.features)):
            first, second = fits.between(target, via), fits.between(via, source)
            if first and second:
                H = second.H_source_from_target @ first.H_source_from_target
                starts.append((min(len(first.target), len(second.target)), H))
        return self._best("composed", target, source, starts)

    def fit_tilted(self, target: int, source: int) -> PairFit | None:
        """Start from matches of the target seen at simulated slants."""
        starts = []
        for tilt, step in _TILTS:
            for angle in np.arange(0, 180, step):
                H_target_from_tilted, size = foreshorten(tilt, angle, self.size)
                tilted = [
                    detect(images[target], H_target_from_tilted, size).mapped(H_target_from_tilted)
                    for images in self.images[:2]
                ]
                starts += self._starts(tilted, self.features[source][:2])
        return self._best("tilted", target, source, starts)

    def measure(self, fit: PairFit) -> tuple[Tensor, float]:
        """Return the homography between the given images, and the RMS error of its inliers in their pixels."""
        H = scale_homography(fit.H_source_from_target, self.size, self.image_size)
        H = orient_homography(H, self.image_size)
        scale = torch.tensor(
            [self.image_size[1] / self.size[1], self.image_size[0] / self.size[0]], dtype=torch.float64
        )
        error = (transform_points(fit.H_source_from_target, fit.target) - fit.source) * scale
        return H / H[2].abs().max(), float(error.square().sum(-1).mean().sqrt())

    def _starts(self, target: list[Features], source: list[Features]) -> list[tuple[int, Tensor]]:
        """Fit the plain and the mirrored matches; return in how many places the inliers lie, and the homography."""
        starts = []
        for mirrored in (False, True):
            matched = [match(t, s.mirrored() if mirrored else s) for t, s in zip(target, source)]
            target_points, source_points = (torch.cat(points) for points in zip(*matched))
            H, inliers = fit_robustly(target_points, source_points, self.tolerance, mirrored=mirrored, seed=self.seed)
            places = count_places(target_points[inliers], self.size)
            if H is not None and places >= _MIN_PLACES:
                starts.append((places, H))
        return starts

    def _best(self, method: str, target: int, source: int, starts: list[tuple[int, Tensor]]) -> PairFit | None:
        """Refine the two best supported starts, the second only if it is nearly as good; return the better fit."""
        starts = sorted(starts, key=lambda start: -start[0])[:2]
        refined = [self._refine(method, target, source, H) for support, H in starts if 2 * support > starts[0][0]]
        return max((fit for fit in refined if fit), key=lambda fit: len(fit.target), default=None)

    def _refine(self, method: str, target: int, source: int, H: Tensor) -> PairFit | None:
        """Match again in the target's frame, nearer to the prediction in each pass; None if too few agree."""
        for search in _SEARCH:
            # The first passes only bring the start near: two samples do.
            count = len(self.images) if search == _SEARCH[-1] else min(2, len(self.images))
            radius = search * self.diagonal
            matched = [self._match_warped(sample, target, source, H, radius) for sample in range(count)]
            target_points, source_points = (torch.cat(points) for points in zip(*matched))
            if len(target_points) < _MIN_PLACES:
                return None
            H = fit_reweighted(target_points, source_points, H, radius)
        inliers = reprojection_errors(H, target_points, source_points) < self.tolerance
        fit = PairFit(method, H, target_points[inliers], source_points[inliers], len(inliers))
        return fit if self._earned(fit) else None

    def _earned(self, fit: PairFit) -> bool:
        """Tell whether the inliers are enough, spread over the plane, and in front of both cameras."""
        if len(fit.target) < max(_MIN_INLIERS, _MIN_SHARE * fit.matches):
            return False
        if count_places(fit.target, self.size) < _MIN_PLACES:
            return False
        for points in (fit.target, fit.source):
            spread = torch.linalg.svdvals(points - points.mean(0))[-1] / math.sqrt(len(points))
            if spread < _MIN_SPREAD * self.diagonal:
                return False
        # Cameras that look at the surface have it in front of their image centers, as the matches are.
        directions = (fit.H_source_from_target, fit.inverse().H_source_from_target)
        return all(torch.equal(orient_homography(H, self.size), H) for H in directions)

    def _match_warped(self, sample: int, target: int, source: int, H: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Match the target with the source warped into its frame by ``H``; points come back in each view's pixels."""
        here = self.features[target][sample]
        warped = detect(self.images[sample][source], H, self.size)
        target_points, warped_points = match(here, warped, radius)
        return target_points, transform_points(H, warped_points)
