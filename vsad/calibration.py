"""Estimate the rig of a station from its own normal images: one homography for every pair of views.

The cameras do not move, so the matches of all samples are pooled into one robust fit. A rough homography comes from
SIFT matches, plain and mirrored; then each source is warped into its target's frame and matched again there, where
neither perspective nor reflection is left, which brings the error to a few hundredths of a pixel.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.geometry import Size, orient_homography, overlap_fraction, scale_homography, transform_points
from vsad.matching import (
    Features,
    detect,
    fit_reweighted,
    fit_robustly,
    foreshorten,
    match,
    reprojection_errors,
)
from vsad.rig import Rig, RigPair

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]

# Features are looked for at a long side between these: smaller images have too few, larger ones take too long.
_WORK_SIDE = (256, 800)
# Lengths in shares of the image diagonal, which is 362 pixels for an image of 256 x 256.
_INLIER = 0.004
_SEARCH = (0.02, 0.01, 0.008)  # how far a match may lie from its prediction, in the passes of the refinement
# Matches of unrelated views agree in at most 5 places; those of a stereo pair of a cluttered room in 0.6 of all.
_MIN_INLIERS, _MIN_PLACES, _MIN_SHARE = 30, 8, 0.4
_MIN_SPREAD = 0.02  # of the diagonal: matches along a line leave the rest of the plane free to turn about it
_PLACES = 16  # a place is a cell of a grid with this many a side: eight samples show one mark eight times
_TILTS = ((2.0, 36.0), (4.0, 18.0))  # simulated foreshortening and the step of its direction in degrees


@dataclass(frozen=True)
class PairReport:
    """How the calibration of one ordered pair went.

    Args:
        target: name of the target view.
        source: name of the source view.
        method: "direct", "composed" (started from two other pairs), "tilted" (matched under simulated
            foreshortening), or "failed".
        mirrored: the source sees the surface mirrored.
        matches: pairs of features near their prediction, over all samples.
        inliers: those of them that agree with the homography.
        error_px: root mean square reprojection error of the inliers, in source pixels.
        overlap: share of the target's pixels that the source sees.
    """

    target: str
    source: str
    method: str
    mirrored: bool = False
    matches: int = 0
    inliers: int = 0
    error_px: float = math.nan
    overlap: float = 0.0


@dataclass(frozen=True)
class CalibrationReport:
    """What `calibrate` saw: every ordered pair of views, in the rig's graph or not.

    Args:
        samples: number of samples that were used.
        pairs: one entry for each ordered pair.
    """

    samples: int
    pairs: tuple[PairReport, ...]

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """Unordered pairs without a homography."""
        failed = (pair for pair in self.pairs if pair.method == "failed")
        return tuple((pair.target, pair.source) for pair in failed if pair.target < pair.source)

    def __str__(self) -> str:
        lines = [f"{'target':<10}{'source':<10}{'method':<10}{'mirrored':<10}inliers / matches  error px  overlap"]
        for pair in self.pairs:
            mirrored = "yes" if pair.mirrored else ""
            lines.append(
                f"{pair.target:<10}{pair.source:<10}{pair.method:<10}{mirrored:<10}"
                f"{pair.inliers:>7} / {pair.matches:<7}  {pair.error_px:>8.3f}  {pair.overlap:>7.2f}"
            )
        return "\n".join(lines)


def calibrate(
    images_per_sample: Iterable[Any],
    views: Sequence[str] | None = None,
    *,
    graph: str | Iterable[tuple[str, str]] = "overlap",
    max_neighbors: int | None = None,
    max_samples: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Rig, CalibrationReport]:
    """Estimate the homographies between fixed cameras from images of normal samples.

    SIFT features (square roots of their descriptors) are matched for every pair of views within each sample, and
    again with the source's descriptors mirrored, since SIFT does not survive a reflection; the better of the two,
    pooled over all samples, is fitted with MAGSAC++. The fit is refined by matching in the target's frame and
    reweighted least squares. A pair that is weak so is tried from the composition of two other pairs, then with
    simulated foreshortening; every start must earn its inliers.

    Convention: homographies map target to source pixels, pixel centers are integers; everything is reported in
    pixels of the given images.

    Args:
        images_per_sample: a data set whose items have `"images"`, or an iterable of such items or of tensors, each
            `(V, 3, H, W)` float in [0, 1]; all samples have one shape.
        views: names of the views; default the data set's own `views`.
        graph: which pairs become neighbors, as `Rig.from_pairs` takes it.
        max_neighbors: keep at most so many neighbors for each view.
        max_samples: use so many samples, spread evenly over a data set, or the first ones of an iterable.
        seed: of the robust fit; the same seed gives the same rig.
        progress: wraps a loop for display, called as `progress(iterable, description, total)`.

    Returns:
        The rig, and a report on every ordered pair. A pair that cannot be fitted is left out with a warning.

    Raises:
        ValueError: no sample, no view names, or images of a wrong or changing shape.

    Example:
        >>> surface = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        >>> surface = torch.nn.functional.interpolate(surface, size=(128, 128), mode="bicubic").clamp(0, 1)
        >>> rig, report = calibrate([torch.cat((surface, surface.flip(-1)))], ["left", "mirror"])
        >>> report.pairs[0].mirrored
        True
        >>> transform_points(rig.homographies[0, 0], torch.tensor([[3.0, 5.0]])).round().tolist()
        [[124.0, 5.0]]

    Source: Lowe 2004 (SIFT); Arandjelovic and Zisserman 2012 (square roots); Barath et al. 2020 (MAGSAC++); Morel and
        Yu 2009 (simulated foreshortening).
    """
    follow = progress or (lambda iterable, description, total: iterable)
    if max_samples < 1:
        raise ValueError(f"calibrate: max_samples must be at least 1, got {max_samples}")
    views = list(getattr(images_per_sample, "views", ()) if views is None else views)
    if not views:
        raise ValueError("calibrate: views must name the views, since images_per_sample has no names of its own")
    station = _Station(len(views), seed)
    chosen, total = _choose(images_per_sample, max_samples)
    for item in follow(chosen, "finding features", total):
        station.add(item["images"] if isinstance(item, dict) else item)
    if not station.images:
        raise ValueError("calibrate: images_per_sample must hold at least one sample, got none; check the split")

    pairs = list(itertools.combinations(range(len(views)), 2))
    fits: dict[tuple[int, int], _Fit] = {}
    for pair in follow(pairs, "matching views", len(pairs)):
        _keep(fits, pair, station.fit_direct(*pair))
    weak = [pair for pair in pairs if pair not in fits]
    for pair in follow(weak, "matching weak pairs", len(weak)):
        _keep(fits, pair, station.fit_composed(pair[0], pair[1], fits) or station.fit_tilted(*pair))
    for pair in weak:  # a tilted pair may have opened a way to another
        if pair not in fits:
            _keep(fits, pair, station.fit_composed(pair[0], pair[1], fits))

    rig_pairs, reports = [], []
    for target, source in itertools.permutations(range(len(views)), 2):
        names = views[target], views[source]
        fit = _between(fits, target, source)
        if fit is None:
            reports.append(PairReport(*names, "failed"))
            continue
        H, error_px = station.measure(fit)
        inliers = len(fit.target)
        rig_pairs.append(RigPair(*names, H, inliers, error_px))
        mirrored, overlap = bool(torch.linalg.det(H) < 0), float(overlap_fraction(H, station.image_size))
        reports.append(PairReport(*names, fit.method, mirrored, fit.matches, inliers, error_px, overlap))
    report = CalibrationReport(len(station.images), tuple(reports))
    _warn_about(report)
    rig = Rig.from_pairs(views, station.image_size, rig_pairs, graph=graph, max_neighbors=max_neighbors)
    return rig, report


@dataclass(frozen=True)
class _Fit:
    method: str
    H_source_from_target: Tensor
    target: Tensor  # (inliers, 2)
    source: Tensor  # (inliers, 2)
    matches: int

    def inverse(self) -> _Fit:
        H_inverse = torch.linalg.inv(self.H_source_from_target)
        return _Fit(self.method, H_inverse, self.source, self.target, self.matches)


class _Station:
    """The images of all samples at working size, their features, and the ways to fit a pair of views."""

    def __init__(self, views: int, seed: int) -> None:
        self.seed = seed
        self.image_size: Size = (0, 0)
        self.size: Size = (0, 0)  # at which features are found
        self.images: list[list[np.ndarray]] = []  # by sample and view
        self.features: list[list[Features]] = [[] for _ in range(views)]  # by view and sample

    def add(self, images: Tensor) -> None:
        V = len(self.features)
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[:2] != (V, 3):
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"calibrate: sample {len(self.images)} must be a tensor [{V} 3 H W], got {got}")
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
        self.images.append([_gray(image, self.size) for image in images])
        for features, image in zip(self.features, self.images[-1]):
            features.append(detect(image))

    def fit_direct(self, target: int, source: int) -> _Fit | None:
        starts = self._starts(self.features[target], self.features[source])
        return self._best("direct", target, source, starts)

    def fit_composed(self, target: int, source: int, fits: dict[tuple[int, int], _Fit]) -> _Fit | None:
        """Start from `H_source_from_via @ H_via_from_target`."""
        starts = []
        for via in range(len(self.features)):
            first, second = _between(fits, target, via), _between(fits, via, source)
            if first and second:
                H = second.H_source_from_target @ first.H_source_from_target
                starts.append((min(len(first.target), len(second.target)), H))
        return self._best("composed", target, source, starts)

    def fit_tilted(self, target: int, source: int) -> _Fit | None:
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

    def measure(self, fit: _Fit) -> tuple[Tensor, float]:
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
            places = self._places(target_points[inliers])
            if H is not None and places >= _MIN_PLACES:
                starts.append((places, H))
        return starts

    def _best(self, method: str, target: int, source: int, starts: list[tuple[int, Tensor]]) -> _Fit | None:
        """Refine the two best supported starts, the second only if it is nearly as good; return the better fit."""
        starts = sorted(starts, key=lambda start: -start[0])[:2]
        refined = [self._refine(method, target, source, H) for support, H in starts if 2 * support > starts[0][0]]
        return max((fit for fit in refined if fit), key=lambda fit: len(fit.target), default=None)

    def _refine(self, method: str, target: int, source: int, H: Tensor) -> _Fit | None:
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
        fit = _Fit(method, H, target_points[inliers], source_points[inliers], len(inliers))
        return fit if self._earned(fit) else None

    def _earned(self, fit: _Fit) -> bool:
        if len(fit.target) < max(_MIN_INLIERS, _MIN_SHARE * fit.matches):
            return False
        if self._places(fit.target) < _MIN_PLACES:
            return False
        for points in (fit.target, fit.source):
            spread = torch.linalg.svdvals(points - points.mean(0))[-1] / math.sqrt(len(points))
            if spread < _MIN_SPREAD * self.diagonal:
                return False
        # Cameras that look at the surface have it in front of their image centers, as the matches are.
        directions = (fit.H_source_from_target, fit.inverse().H_source_from_target)
        return all(torch.equal(orient_homography(H, self.size), H) for H in directions)

    def _match_warped(self, sample: int, target: int, source: int, H: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        here = self.features[target][sample]
        warped = detect(self.images[sample][source], H, self.size)
        target_points, warped_points = match(here, warped, radius)
        return target_points, transform_points(H, warped_points)

    def _places(self, points: Tensor) -> int:
        cell = torch.tensor([self.size[1] / _PLACES, self.size[0] / _PLACES], dtype=torch.float64)
        return len(torch.unique((points / cell).floor(), dim=0))


def _gray(image: Tensor, size: Size) -> np.ndarray:
    levels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    gray = cv2.cvtColor(levels.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    interpolation = cv2.INTER_AREA if size[0] < gray.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(gray, (size[1], size[0]), interpolation=interpolation)


def _between(fits: dict[tuple[int, int], _Fit], target: int, source: int) -> _Fit | None:
    fit = fits.get((min(target, source), max(target, source)))
    return fit.inverse() if fit and target > source else fit


def _keep(fits: dict[tuple[int, int], _Fit], pair: tuple[int, int], fit: _Fit | None) -> None:
    if fit is not None:
        fits[pair] = fit


def _choose(images_per_sample: Any, count: int) -> tuple[Iterable[Any], int]:
    """Return evenly spread items of a data set, or the first items of an iterable, and how many to expect."""
    if not (hasattr(images_per_sample, "__len__") and hasattr(images_per_sample, "__getitem__")):
        return itertools.islice(images_per_sample, count), count
    total = len(images_per_sample)
    indices = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return (images_per_sample[index] for index in indices), len(indices)


def _warn_about(report: CalibrationReport) -> None:
    if not report.failed:
        return
    names = ", ".join(f"{a} and {b}" for a, b in report.failed)
    every = "; the rig has no neighbors" if len(report.failed) * 2 == len(report.pairs) else ""
    warnings.warn(
        f"calibrate: no homography between {names}: too few matches agree, or only along a line{every}. Use more "
        "samples or images with more texture, or write the pair into the rig file by hand",
        stacklevel=3,
    )
