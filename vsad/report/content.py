"""What a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vsad.geometry import RigPair
from vsad.metrics import Array, Result


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
class Report:
    """Everything the page shows.

    Args:
        title: heading of the page.
        views: names of the V views, in the order of the samples' arrays.
        samples: at least one.
        threshold: a sample or view whose score is at least this is a DEFECT.
        metrics: rows (name, result of ``vsad.metrics.evaluate``), this run first, then its comparisons.
        calibration: the pairs of the rig.
        reconstructions: of a few samples, by a model whose autoencoder draws pictures.
        facts: what, where and when: data set, category, model, date, machine, version, seconds.
    """

    title: str
    views: Sequence[str]
    samples: Sequence[ReportSample]
    threshold: float
    metrics: Sequence[tuple[str, Result]] = ()
    calibration: Sequence[RigPair] = ()
    reconstructions: Sequence[Reconstruction] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
