"""Fitting one pair of views: a start from matches, then a refinement by matching in the target's frame.

A rough homography comes from matches, plain and mirrored; then each source is warped into its target's frame and
matched again there, where neither perspective nor reflection is left, which brings the error to a few hundredths of a
pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vsad.calibration.dense import refine_densely
from vsad.calibration.matching import (
    Features,
    count_places,
    detect,
    detect_mirrored,
    fit_reweighted,
    fit_robustly,
    foreshorten,
    match,
    reprojection_errors,
)
from vsad.calibration.quality import MIN_PLACES, why_weak
from vsad.calibration.samples import Samples
from vsad.geometry import transform_points
from vsad.progress import Progress

# How far a match may lie from its prediction in each pass of the refinement, in shares of the diagonal.
_SEARCH = (0.02, 0.01, 0.008)
# The pictures may sharpen a homography, not contradict its inliers.
_STILL_AGREE = 0.95
# Simulated foreshortenings, and the step in degrees between their directions.
_TILTS = ((2.0, 36.0), (4.0, 18.0))


@dataclass(frozen=True)
class PairFit:
    """A homography between two views at working size, and the matches of all samples that agree with it.

    Args:
        method: "direct", "composed" or "tilted": what the refinement started from.
        features: "sift", "akaze" or "orb".
        H_source_from_target: ``(3, 3)`` float64.
        target: ``(K, 2)``, the K inliers in the target view.
        source: ``(K, 2)``, the same in the source view.
        matches: number of matches near their prediction, inliers or not.
        weakness: why it is not to be believed; nothing where it is.
        dense: the pictures themselves sharpened what the matches said.
    """

    method: str
    features: str
    H_source_from_target: Tensor
    target: Tensor
    source: Tensor
    matches: int
    weakness: str = ""
    dense: bool = False

    def inverse(self) -> PairFit:
        """Return the same fit from the source's side."""
        H_inverse = torch.linalg.inv(self.H_source_from_target)
        return replace(self, H_source_from_target=H_inverse, target=self.source, source=self.target)


class PairFits:
    """The fits that are known so far, by pair of view indices; each serves both directions."""

    def __init__(self) -> None:
        self._fits: dict[tuple[int, int], PairFit] = {}

    def add(self, target: int, source: int, fit: PairFit | None) -> None:
        """Keep the fit of a pair with ``target < source``, if it is better than what is known; None keeps nothing."""
        known = self._fits.get((target, source))
        if fit is not None and (known is None or _rank(fit) > _rank(known)):
            self._fits[target, source] = fit

    def replace(self, target: int, source: int, fit: PairFit) -> None:
        """Keep another fit of a pair with ``target < source`` instead of the one that is known."""
        self._fits[target, source] = fit

    def between(self, target: int, source: int) -> PairFit | None:
        """Return the fit from target to source, where the pair has one to believe in either direction."""
        fit = self.attempt(target, source)
        return None if fit is None or fit.weakness else fit

    def attempt(self, target: int, source: int) -> PairFit | None:
        """Return the best fit from target to source, to be believed or not."""
        fit = self._fits.get((min(target, source), max(target, source)))
        return fit.inverse() if fit and target > source else fit


class PairFitter:
    """The features of all samples, by view and sample, and the ways to fit a pair of views.

    Args:
        samples: the pictures.
        kind: of the features: "sift", "akaze" or "orb".
        seed: seed of the robust fits.
        progress: told of the samples whose features are found.
    """

    def __init__(self, samples: Samples, kind: str, seed: int, progress: Progress) -> None:
        self.samples, self.kind, self.seed = samples, kind, seed
        self.size, self.tolerance = samples.size, samples.tolerance
        self.features: list[list[Features]] = [[] for _ in samples.views]
        self.mirrored: list[list[Features]] = [[] for _ in samples.views]
        for pictures in progress.track(samples.pictures, f"finding {kind} features"):
            for view, picture in enumerate(pictures):
                found = detect(picture, kind=kind)
                self.features[view].append(found)
                # SIFT tells from a feature what its mirror image's would be; of the others it has to be seen.
                self.mirrored[view].append(found.mirrored() if kind == "sift" else detect_mirrored(picture, kind=kind))

    def fit_direct(self, target: int, source: int) -> PairFit | None:
        """Start from matches between the two views as they are."""
        starts = self._starts(self.features[target], source)
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
                    detect(pictures[target], H_target_from_tilted, size, kind=self.kind).mapped(H_target_from_tilted)
                    for pictures in self.samples.pictures[:2]
                ]
                starts += self._starts(tilted, source)
        return self._best("tilted", target, source, starts)

    def _starts(self, target: list[Features], source: int) -> list[tuple[int, Tensor]]:
        """Fit the plain and the mirrored matches; return in how many places the inliers lie, and the homography."""
        starts = []
        for mirrored in (False, True):
            of_source = (self.mirrored if mirrored else self.features)[source]
            matched = [match(t, s) for t, s in zip(target, of_source)]
            target_points, source_points = (torch.cat(points) for points in zip(*matched))
            H, inliers = fit_robustly(target_points, source_points, self.tolerance, mirrored=mirrored, seed=self.seed)
            places = count_places(target_points[inliers], self.size)
            if H is not None and places >= MIN_PLACES:
                starts.append((places, H))
        return starts

    def _best(self, method: str, target: int, source: int, starts: list[tuple[int, Tensor]]) -> PairFit | None:
        """Refine the two best supported starts, the second only if it is nearly as good; return the better fit."""
        starts = sorted(starts, key=lambda start: -start[0])[:2]
        refined = [self._refine(method, target, source, H) for support, H in starts if 2 * support > starts[0][0]]
        return max((fit for fit in refined if fit), key=_rank, default=None)

    def _refine(self, method: str, target: int, source: int, H: Tensor) -> PairFit | None:
        """Match again in the target's frame, nearer to the prediction in each pass; None if nothing is found there."""
        for search in _SEARCH:
            # The first passes only bring the start near: two samples do.
            samples = len(self.samples.pictures)
            count = samples if search == _SEARCH[-1] else min(2, samples)
            radius = search * self.samples.diagonal
            matched = [self._match_warped(sample, target, source, H, radius) for sample in range(count)]
            target_points, source_points = (torch.cat(points) for points in zip(*matched))
            if len(target_points) < MIN_PLACES:
                return None
            H = fit_reweighted(target_points, source_points, H, radius)
        inliers = reprojection_errors(H, target_points, source_points) < self.tolerance
        target_points, source_points = target_points[inliers], source_points[inliers]
        weakness = why_weak(H, target_points, source_points, len(inliers), self.size, self.tolerance)
        return PairFit(method, self.kind, H, target_points, source_points, len(inliers), weakness)

    def _match_warped(self, sample: int, target: int, source: int, H: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Match the target with the source warped into its frame by ``H``; points come back in each view's pixels."""
        here = self.features[target][sample]
        warped = detect(self.samples.pictures[sample][source], H, self.size, kind=self.kind)
        target_points, warped_points = match(here, warped, radius)
        return target_points, transform_points(H, warped_points)


def sharpened(samples: Samples, target: int, source: int, fit: PairFit) -> PairFit:
    """Let the pictures sharpen what the matches say; keep what they say where that is not better."""
    H = refine_densely(
        fit.H_source_from_target, fit.target, [(each[target], each[source]) for each in samples.pictures]
    )
    if H is None:
        return fit
    agree = reprojection_errors(H, fit.target, fit.source) < samples.tolerance
    return replace(fit, H_source_from_target=H, dense=True) if agree.double().mean() > _STILL_AGREE else fit


def _rank(fit: PairFit) -> tuple[bool, int]:
    """Fits to be believed come before weak ones, then those with more inliers."""
    return not fit.weakness, len(fit.target)
