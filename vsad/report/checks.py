"""What a report refuses, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vsad.metrics import as_numpy
from vsad.report.content import CurvePoints, Report, ReportSample

DIMENSIONS = {
    "images": "V 3 H W",
    "maps": "V h w",
    "masks": "V h w",
    "view_scores": "V",
    "view_labels": "V",
    "unjudged": "V",
    "blind": "V",
}
FINITE = ("maps", "view_scores", "sample_score", "unjudged", "blind")


def check_report(report: Report) -> None:
    """Refuse a report whose parts do not fit each other; its samples are looked at as they come.

    Raises:
        ValueError: the threshold is not finite, a curve has other x than y, or a pair or a picture names another view.
    """
    if not math.isfinite(report.threshold):
        raise ValueError(f"write_report: threshold must be finite, got {report.threshold}; fit the detector first")
    for name, curves in (("roc", report.roc), ("pro", report.pro)):
        for curve in curves:
            _check_curve(name, curve)
    for name, pairs in (("calibration", report.calibration), ("calibration_pictures", report.calibration_pictures)):
        for joined in pairs:
            for view in (joined.target, joined.source):
                if view not in report.views:
                    raise ValueError(
                        f"write_report: {name} must join views of the report ({', '.join(report.views)}), "
                        f"got {view!r}; give the rig of these cameras"
                    )
    for picture in report.calibration_pictures:
        for name in ("before", "after"):
            pair = f"{name} of {picture.target} and {picture.source}"
            _check_shape(pair, np.shape(getattr(picture, name)), "3 H W", report.views)
    for drawn in report.reconstructions:
        for name in ("images", "drawn"):
            _check_shape(f"{name} of {drawn.id!r}", np.shape(getattr(drawn, name)), "V 3 H W", report.views)


def check_sample(sample: ReportSample, views: Sequence[str]) -> None:
    """Refuse a sample whose arrays do not fit the views, or are not finite.

    Raises:
        ValueError: it names the sample and the array.
    """
    for name, dims in DIMENSIONS.items():
        if getattr(sample, name) is not None:
            _check_shape(f"{name} of sample {sample.id!r}", np.shape(getattr(sample, name)), dims, views)
    for name in FINITE:
        if getattr(sample, name) is not None and not np.isfinite(as_numpy(getattr(sample, name))).all():
            raise ValueError(
                f"write_report: {name} of sample {sample.id!r} must be finite, got NaN or infinity; "
                f"look at that sample's images"
            )


def _check_curve(kind: str, curve: CurvePoints) -> None:
    x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"write_report: {kind} curve {curve.name!r} must have as many x as y, at least one, "
            f"got {list(x.shape)} and {list(y.shape)}"
        )
    values = np.concatenate([x, y])
    # !(0 <= value <= 1): NaN fails every comparison and must be refused.
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"write_report: {kind} curve {curve.name!r} must lie in [0, 1], got {values.min()} to "
                         f"{values.max()}; give rates, not percentages")  # fmt: skip


def _check_shape(name: str, shape: tuple[int, ...], dims: str, views: Sequence[str]) -> None:
    fixed = {"3": 3, "V": len(views)}
    sizes = dims.split()
    fits = len(shape) == len(sizes) and all(fixed.get(dim, n) == n > 0 for dim, n in zip(sizes, shape))
    if not fits:
        raise ValueError(
            f"write_report: {name} must be [{dims}] with V={len(views)}, got {list(shape)}; "
            f"the views are {', '.join(views)}"
        )
