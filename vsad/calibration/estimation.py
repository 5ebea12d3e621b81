"""Estimate the rig of a station from its own normal images: one homography for every pair of views.

The cameras do not move, so the matches of all samples are pooled into one robust fit.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from vsad.calibration.pair_fitter import PairFits, PairFitter
from vsad.calibration.report import CalibrationReport, PairReport
from vsad.geometry import Rig, RigPair, overlap_fraction
from vsad.geometry.neighbor_graph import parse_graph
from vsad.progress import SILENT, Progress


def calibrate(
    images_per_sample: Iterable[Any],
    views: Sequence[str] | None = None,
    *,
    graph: str | Iterable[tuple[str, str]] = "overlap",
    max_neighbors: int | None = None,
    max_samples: int = 8,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Rig, CalibrationReport]:
    """Estimate the homographies between fixed cameras from images of normal samples.

    SIFT features (square roots of their descriptors) are matched for every pair of views within each sample, and
    again with the source's descriptors mirrored, since SIFT does not survive a reflection; the better of the two,
    pooled over all samples, is fitted with MAGSAC++. The fit is refined by matching in the target's frame and
    reweighted least squares. A pair that stays weak is tried from the composition of two other pairs, then with
    simulated foreshortening; an initial estimate is kept only if it gains inliers.

    Convention: homographies map target to source pixels, pixel centers are integers; everything is reported in
    pixels of the given images.

    Args:
        images_per_sample: a data set whose items have ``"images"``, or an iterable of such items or of tensors, each
            ``(V, 3, H, W)`` float in [0, 1]; all samples have one shape.
        views: names of the views; default the data set's own ``views``.
        graph: which pairs become neighbors, as ``Rig.from_pairs`` takes it.
        max_neighbors: maximum number of neighbors of each view.
        max_samples: maximum number of samples to use, spread evenly over a data set, or the first ones of an iterable.
        seed: seed of the robust fit; the same seed gives the same rig.
        progress: told of the samples and pairs that are done.

    Returns:
        The rig, and a report on every ordered pair. A pair that cannot be fitted is left out with a warning.

    Raises:
        TypeError: a sample is no tensor of floating point.
        ValueError: no sample, no view names, images of a wrong or changing shape, or values that are not in [0, 1].

    Example:
        >>> from vsad.geometry import transform_points
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
    if max_samples < 1:
        raise ValueError(f"calibrate: max_samples must be at least 1, got {max_samples}")
    views = list(getattr(images_per_sample, "views", ()) if views is None else views)
    if not views:
        raise ValueError("calibrate: views must name the views, since images_per_sample has no names of its own")
    if isinstance(graph, str):
        parse_graph(graph, views)
    fitter = PairFitter(len(views), seed)
    chosen, total = _choose(images_per_sample, max_samples)
    for item in progress.track(chosen, "finding features", total):
        fitter.add(item["images"] if isinstance(item, dict) else item)
    if not fitter.images:
        raise ValueError("calibrate: images_per_sample must hold at least one sample, got none; check the split")

    rig_pairs, report = _describe(fitter, _fit_pairs(fitter, len(views), progress), views)
    _warn_about(report)
    rig = Rig.from_pairs(views, fitter.image_size, rig_pairs, graph=graph, max_neighbors=max_neighbors)
    return rig, report


def _fit_pairs(fitter: PairFitter, views: int, progress: Progress) -> PairFits:
    """Fit every pair directly where that works, and the weak ones from other pairs or simulated slants."""
    fits = PairFits()
    pairs = list(itertools.combinations(range(views), 2))
    for pair in progress.track(pairs, "matching views"):
        fits.add(*pair, fitter.fit_direct(*pair))
    weak = [pair for pair in pairs if fits.between(*pair) is None]
    for pair in progress.track(weak, "matching weak pairs"):
        fits.add(*pair, fitter.fit_composed(*pair, fits) or fitter.fit_tilted(*pair))
    for pair in weak:
        if fits.between(*pair) is None:  # a tilted pair that came later may have opened a way to this one
            fits.add(*pair, fitter.fit_composed(*pair, fits))
    return fits


def _describe(fitter: PairFitter, fits: PairFits, views: Sequence[str]) -> tuple[list[RigPair], CalibrationReport]:
    """Turn fits at working size into pairs in pixels of the images, and report on every ordered pair."""
    rig_pairs, reports = [], []
    for target, source in itertools.permutations(range(len(views)), 2):
        names = views[target], views[source]
        fit = fits.between(target, source)
        if fit is None:
            reports.append(PairReport(*names, "failed"))
            continue
        H, error_px = fitter.measure(fit)
        inliers = len(fit.target)
        rig_pairs.append(RigPair(*names, H, inliers, error_px))
        mirrored, overlap = bool(torch.linalg.det(H) < 0), float(overlap_fraction(H, fitter.image_size))
        reports.append(PairReport(*names, fit.method, mirrored, fit.matches, inliers, error_px, overlap))
    return rig_pairs, CalibrationReport(len(fitter.images), tuple(reports))


def _choose(images_per_sample: Any, count: int) -> tuple[Iterable[Any], int]:
    """Return evenly spread items of a data set, or the first items of an iterable, and how many to expect."""
    if not (hasattr(images_per_sample, "__len__") and hasattr(images_per_sample, "__getitem__")):
        return itertools.islice(images_per_sample, count), count
    total = len(images_per_sample)
    indices = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return (images_per_sample[index] for index in indices), len(indices)


def _warn_about(report: CalibrationReport) -> None:
    """Warn ``calibrate``'s caller of the pairs that are left out."""
    if not report.failed:
        return
    names = ", ".join(f"{a} and {b}" for a, b in report.failed)
    every = "; the rig has no neighbors" if len(report.failed) * 2 == len(report.pairs) else ""
    warnings.warn(
        f"calibrate: no homography between {names}: too few matches agree, or only along a line{every}. Use more "
        "samples or images with more texture, or write the pair into the rig file by hand",
        stacklevel=3,
    )
