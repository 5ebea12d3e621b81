"""Estimate the rig of a station from its own normal images: one homography for every pair of views.

The cameras do not move, so the matches of all samples are pooled into one robust fit.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from vsad.calibration.feature_kinds import choose_kinds
from vsad.calibration.matching import reprojection_errors
from vsad.calibration.pair_fitter import PairFit, PairFits, PairFitter, sharpened
from vsad.calibration.quality import covered_share, held_out_error
from vsad.calibration.report import CalibrationReport, PairReport, describe_problems
from vsad.calibration.samples import Samples, choose_samples, view_names
from vsad.geometry import Rig, RigPair, orient_homography, overlap_fraction, scale_homography
from vsad.geometry.graph_name import parse_graph
from vsad.progress import SILENT, Progress


def calibrate(
    images_per_sample: Iterable[Any],
    views: Sequence[str] | None = None,
    *,
    graph: str | Iterable[tuple[str, str]] = "overlap",
    max_neighbors: int | None = None,
    max_samples: int = 8,
    features: str = "auto",
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Rig, CalibrationReport]:
    """Estimate the homographies between fixed cameras from images of normal samples.

    SIFT features (square roots of their descriptors) are matched for every pair of views within each sample, and
    again with the source's descriptors mirrored, since SIFT does not survive a reflection; the better of the two,
    pooled over all samples, is fitted with MAGSAC++. The fit is refined by matching in the target's frame and
    reweighted least squares. A pair that stays weak is tried from the composition of two other pairs, then with
    simulated foreshortening, and at last with AKAZE features, where the installed OpenCV has them, and ORB's. Then
    the pictures themselves sharpen a homography, where pixels that had no say correlate better for it.

    Convention: homographies map target to source pixels, pixel centers are integers; everything is reported in
    pixels of the given images.

    Args:
        images_per_sample: a data set whose items have ``"images"``, or an iterable of such items or of tensors, each
            ``(V, 3, H, W)`` float in [0, 1]; all samples have one shape.
        views: names of the views; default the data set's own ``views``.
        graph: which pairs become neighbors, as ``Rig.from_pairs`` takes it.
        max_neighbors: maximum number of neighbors of each view.
        max_samples: maximum number of samples to use, spread evenly over a data set, or the first ones of an iterable.
        features: kind of the features: "sift", "akaze" or "orb", or "auto": the next where those before fit no pair.
        seed: seed of the robust fit; the same seed gives the same rig.
        progress: told of the samples and pairs that are done.

    Returns:
        The rig, and a report on every ordered pair. A pair that cannot be fitted is left out with a warning that says
        why, and so is a view named that has no partner.

    Raises:
        TypeError: a sample is no tensor of floating point.
        ValueError: no sample, no view names, images of a wrong or changing shape, values that are not in [0, 1], or
            features that there are not.

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
        Yu 2009 (simulated foreshortening); Alcantarilla et al. 2013 (AKAZE); Rublee et al. 2011 (ORB); Evangelidis and
        Psarakis 2008 (the pictures' say).
    """
    if max_samples < 1:
        raise ValueError(f"calibrate: max_samples must be at least 1, got {max_samples}")
    views = view_names(images_per_sample, views)
    if isinstance(graph, str):
        parse_graph(graph, views)
    kinds = choose_kinds(features)
    samples = Samples(views)
    chosen, total = choose_samples(images_per_sample, max_samples)
    for item in progress.track(chosen, "reading samples", total):
        samples.add(item["images"] if isinstance(item, dict) else item)
    if not samples.pictures:
        raise ValueError("calibrate: images_per_sample must hold at least one sample, got none; check the split")

    rig_pairs, report = _describe(samples, _fit_pairs(samples, kinds, seed, progress))
    rig = Rig.from_pairs(views, samples.image_size, rig_pairs, graph=graph, max_neighbors=max_neighbors)
    twins = [(views[a], views[b]) for a, b in sorted(samples.twins) if a not in samples.blank]
    for problem in describe_problems(rig, report, twins):
        warnings.warn(f"calibrate: {problem}", stacklevel=2)
    return rig, report


def _fit_pairs(samples: Samples, kinds: Sequence[str], seed: int, progress: Progress) -> PairFits:
    """Fit every pair with the first kind of features that can, and let the pictures sharpen what was found."""
    fits = PairFits()
    pairs = list(itertools.combinations(range(len(samples.views)), 2))
    weak = [pair for pair in pairs if not samples.blank.intersection(pair)]
    for kind in kinds:
        if weak:
            fitter = PairFitter(samples, kind, seed, progress)
            weak = _fit_weak(fitter, fits, weak, progress, tilted=kind == kinds[0])
    found = [(pair, fit) for pair in pairs if (fit := fits.between(*pair))]
    for pair, fit in progress.track(found, "comparing pictures"):
        fits.replace(*pair, sharpened(samples, *pair, fit))
    return fits


def _fit_weak(
    fitter: PairFitter, fits: PairFits, pairs: list[tuple[int, int]], progress: Progress, *, tilted: bool
) -> list[tuple[int, int]]:
    """Fit pairs directly where that works, and others from other pairs or simulated slants; return those left."""
    for pair in progress.track(pairs, f"matching {fitter.kind}"):
        fits.add(*pair, fitter.fit_direct(*pair))
    weak = [pair for pair in pairs if fits.between(*pair) is None]
    for pair in progress.track(weak, f"matching weak {fitter.kind}"):
        fits.add(*pair, fitter.fit_composed(*pair, fits))
        if tilted and fits.between(*pair) is None:
            fits.add(*pair, fitter.fit_tilted(*pair))
    for pair in weak:
        if fits.between(*pair) is None:  # a tilted pair that came later may have opened a way to this one
            fits.add(*pair, fitter.fit_composed(*pair, fits))
    return [pair for pair in weak if fits.between(*pair) is None]


def _describe(samples: Samples, fits: PairFits) -> tuple[list[RigPair], CalibrationReport]:
    """Turn fits at working size into pairs in pixels of the images, and report on every ordered pair."""
    rig_pairs, reports = [], []
    for target, source in itertools.permutations(range(len(samples.views)), 2):
        names = samples.views[target], samples.views[source]
        fit = fits.attempt(target, source)
        if fit is None or fit.weakness:
            reason = _why_not(samples, (target, source), fit)
            inliers, matches = (0, 0) if fit is None else (len(fit.target), fit.matches)
            reports.append(PairReport(*names, "failed", inliers=inliers, matches=matches, reason=reason))
            continue
        pair, report = _measure(samples, names, fit)
        rig_pairs.append(pair)
        reports.append(report)
    return rig_pairs, CalibrationReport(len(samples.pictures), tuple(reports))


def _why_not(samples: Samples, pair: tuple[int, int], fit: PairFit | None) -> str:
    blank = [samples.views[view] for view in sorted(samples.blank.intersection(pair))]
    if blank:
        return f"{' and '.join(blank)} {'shows' if len(blank) == 1 else 'show'} nothing"
    return "nothing of the one is found in the other" if fit is None else fit.weakness


def _measure(samples: Samples, names: tuple[str, str], fit: PairFit) -> tuple[RigPair, PairReport]:
    """The pair in pixels of the given images, and what there is to say about it."""
    H = scale_homography(fit.H_source_from_target, samples.size, samples.image_size)
    H = orient_homography(H, samples.image_size)
    H = H / H[2].abs().max()
    scale = samples.scale
    target, source = ((points + 0.5) * scale - 0.5 for points in (fit.target, fit.source))
    inliers, error_px = len(target), float(reprojection_errors(H, target, source).square().mean().sqrt())
    report = PairReport(
        *names, fit.method, fit.features, bool(torch.linalg.det(H) < 0), fit.matches, inliers, error_px,
        held_out_error(H, target, source, samples.image_size), float(overlap_fraction(H, samples.image_size)),
        covered_share(H, target, samples.image_size), fit.dense, points=target,
    )  # fmt: skip
    return RigPair(*names, H, inliers, error_px), report
