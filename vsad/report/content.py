"""What a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vsad.geometry import RigPair, Size
from vsad.metrics import Array


@dataclass(frozen=True)
class ReportSample:
    """One inspected object.

    Args:
        id: its name; shown as text, so any characters will do.
        images: (V, 3, H, W) RGB, float in [0, 1] or uint8.
        maps: (V, h, w) anomaly maps, of any resolution.
        view_scores: (V,).
        sample_score: compared with the report's threshold.
        masks: (V, h, w) boolean, True = defect; None where unknown.
        view_labels: (V,) True = the view shows a defect; None reads them from the masks or a normal label.
        label: True = defective, False = normal, None = unknown.
        defect: the kind of defect, if it has a name.
        category: the product, where a report covers several.
        unjudged: (V,) the share of each picture that nothing judges; None where all is judged.
        blind: (V,) the share of each picture that the view itself does not judge; a view that judges nothing makes the
            sample a DEFECT. None where that is not known.
        not_registered: why it was judged where it lay, at a station that registers its samples; None where it was not.
    """

    id: str
    images: Array
    maps: Array
    view_scores: Array | Sequence[float]
    sample_score: float
    masks: Array | None = None
    view_labels: Array | Sequence[bool] | None = None
    label: bool | None = None
    defect: str | None = None
    category: str = ""
    unjudged: Array | Sequence[float] | None = None
    blind: Array | Sequence[float] | None = None
    not_registered: str | None = None


@dataclass(frozen=True)
class Reconstruction:
    """What a model makes of a sample.

    Args:
        id: the sample's name.
        images: (V, 3, H, W) RGB, float in [0, 1] or uint8, in canonical pose where samples are registered.
        drawn: the model's, likewise.
    """

    id: str
    images: Array
    drawn: Array


@dataclass(frozen=True)
class CalibrationPicture:
    """Two views of a surface laid over each other, before and after their homography is applied.

    Args:
        target: name of the view that the other is laid over.
        source: name of the view that is laid over it.
        before: (3, H, W) RGB, float in [0, 1] or uint8: the pictures as the cameras took them.
        after: likewise, the source brought into the target's place: what is one surface falls together.
    """

    target: str
    source: str
    before: Array
    after: Array


@dataclass(frozen=True)
class CurvePoints:
    """A curve by its points.

    Args:
        name: what it is of, such as "pixel".
        x: false-positive rates in [0, 1], ascending.
        y: true-positive rates or overlaps in [0, 1], one for each ``x``.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    Args:
        title: heading of the page.
        views: names of the V views, in the order of the samples' arrays.
        samples: at least one. They are read once, and one at a time: a generator does for any number of them.
        threshold: a sample or view whose score is at least this is a DEFECT.
        metrics: rows (name, result of ``vsad.metrics.evaluate``), this run first, then its comparisons. Where a result
            holds "<metric>_interval": (low, high) beside a metric, the interval stands beside it.
        roc: true-positive over false-positive rate, a curve for each level.
        pro: mean overlap with the defect regions over the false-positive rate.
        calibration: the pairs of the rig. A place that is pointed at in one view is marked in the others through them.
        size: (height, width) of the images that the pairs' homographies relate; None: that of the samples' images.
        calibration_pictures: what the calibration of some pairs achieved.
        skipped: samples left out, as (name, reason).
        empty_masks: names of defective samples whose masks are all empty.
        reconstructions: of a few samples, by a model whose autoencoder draws pictures.
        facts: what, where and when: data set, category, model, date, machine, version, seconds.
    """

    title: str
    views: Sequence[str]
    samples: Iterable[ReportSample]
    threshold: float
    metrics: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]] = ()
    roc: Sequence[CurvePoints] = ()
    pro: Sequence[CurvePoints] = ()
    calibration: Sequence[RigPair] = ()
    size: Size | None = None
    calibration_pictures: Sequence[CalibrationPicture] = ()
    skipped: Sequence[tuple[str, str]] = ()
    empty_masks: Sequence[str] = ()
    reconstructions: Sequence[Reconstruction] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
