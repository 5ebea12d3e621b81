"""One self-contained HTML page of what a detector decided and why: verdicts, metrics, scores, heat maps.

Pictures are data URIs and charts are inline SVG; the page asks the network for nothing: mail it, archive it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from .metrics import LEVELS, Array, Result, as_numpy
from .pictures import Scale, outline, photograph

TEMPLATES = Path(__file__).parent / "templates"
METRIC_NAMES = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "aupro": "AUPRO"}
DIMENSIONS = {"images": "V 3 H W", "maps": "V h w", "masks": "V h w", "view_scores": "V", "view_labels": "V"}
CHART_LEFT, CHART_TOP, CHART_WIDTH, CHART_HEIGHT = 36.0, 26.0, 396.0, 150.0


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


@dataclass(frozen=True)
class CalibrationRow:
    """One ordered pair of views: the homography maps pixels of ``target`` to pixels of ``source``.

    Args:
        target: name of the view that is looked from.
        source: name of the view that is sampled.
        inliers: matches the homography agrees with; None where it was not measured.
        error_px: their root mean square reprojection error in pixels; None where it was not measured.
        fitted: False where no homography was found, so that the pair is not used.
        overlay: (3, H, W) RGB picture of the aligned pair, float in [0, 1] or uint8.
    """

    target: str
    source: str
    inliers: int | None = None
    error_px: float | None = None
    fitted: bool = True
    overlay: Array | None = None


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    Args:
        title: heading of the page.
        views: names of the V views, in the order of the samples' arrays.
        samples: at least one.
        threshold: a sample or view whose score is at least this is a DEFECT.
        metrics: rows (name, result of ``vsad.metrics.evaluate``), this run first, then its comparisons.
        calibration: one row for each ordered pair of views.
        facts: what, where and when: data set, category, model, date, machine, version, seconds.
        view_score: how a view's score was made, in words, for the definitions.
        sample_score: how a sample's score was made, likewise.
    """

    title: str
    views: Sequence[str]
    samples: Sequence[ReportSample]
    threshold: float
    metrics: Sequence[tuple[str, Result]] = ()
    calibration: Sequence[CalibrationRow] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    view_score: str = "the maximum of the view's anomaly map"
    sample_score: str = "the maximum over the sample's views"


def write_report(path: str | Path, report: Report, *, image_size: int = 256, max_pictures: int = 200) -> Path:
    """Writes the report as one HTML file.

    Args:
        path: the file; missing folders are made.
        image_size: the longer side of a picture in the page, in pixels; larger images are reduced to it.
        max_pictures: samples shown with pictures: wrong verdicts first, then the highest scores. The others
            keep their card without pictures, and the page says so.

    Returns:
        The path written.

    Raises:
        ValueError: no sample, a shape that does not fit the views, or a value that is not finite.
    """
    _check(report)
    scale = Scale.of([as_numpy(sample.maps) for sample in report.samples], report.threshold)
    cards = [_Card(sample, report) for sample in report.samples]
    cards.sort(key=lambda card: (card.urgency, -card.sample.sample_score))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = format_score
    html = environment.get_template("report.html").render(
        report=report,
        cards=cards,
        pictures=[card.pictures(scale, image_size) for card in cards[:max_pictures]],
        outcomes=Counter(card.outcome for card in cards),
        categories=sorted({s.category for s in report.samples if s.category}),
        outlined=any(s.masks is not None for s in report.samples),
        kinds=_kinds(cards),
        metrics=_metric_rows(report.metrics),
        levels=[(level.capitalize(), [METRIC_NAMES[n] for n in names]) for level, names in LEVELS.items()],
        charts=_charts(cards, report.threshold),
        scale=scale,
        meter=_meter([sample.sample_score for sample in report.samples], report.threshold),
        overlays=[
            None if row.overlay is None else photograph(as_numpy(row.overlay), 2 * image_size)
            for row in report.calibration
        ],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def format_score(value: float) -> str:
    """Four significant digits, trailing zeros kept so that columns line up."""
    return f"{value:#.4g}".removesuffix(".")


class _Card:
    """What the page says of one sample."""

    def __init__(self, sample: ReportSample, report: Report) -> None:
        self.sample = sample
        self.label = None if sample.label is None else bool(sample.label)
        self.defective = sample.sample_score >= report.threshold
        self.view_scores = [float(score) for score in as_numpy(sample.view_scores)]
        self.views = list(zip(report.views, self.view_scores, self.view_truth, strict=True))

    @property
    def outcome(self) -> str:
        if self.label is None:
            return "unlabeled"
        if self.label:
            return "found" if self.defective else "missed"
        return "false alarm" if self.defective else "passed"

    @property
    def urgency(self) -> int:
        """What needs a person's eye comes first: a defect that went through, then a good part stopped."""
        return {"missed": 0, "false alarm": 1}.get(self.outcome, 2)

    @property
    def view_truth(self) -> list[bool | None]:
        """Per view: True = shows a defect, False = does not, None = unknown."""
        if self.sample.view_labels is not None:
            return [bool(label) for label in as_numpy(self.sample.view_labels)]
        if self.sample.masks is not None:
            return [bool(mask.any()) for mask in as_numpy(self.sample.masks)]
        return [False if self.label is False else None] * len(self.view_scores)

    def pictures(self, scale: Scale, size: int) -> list[dict[str, Any]]:
        """Per view the layers of its picture: photograph, heat map, outline of the true defect."""
        images, maps = as_numpy(self.sample.images), as_numpy(self.sample.maps)
        masks = [None] * len(maps) if self.sample.masks is None else as_numpy(self.sample.masks)
        return [
            {
                "size": image.shape[:0:-1],
                "photograph": photograph(image, size),
                "heat": scale.heat(anomaly_map, size),
                "outline": "" if mask is None else outline(mask, size),
                "outline_size": anomaly_map.shape[::-1] if mask is None else mask.shape[::-1],
            }
            for image, anomaly_map, mask in zip(images, maps, masks, strict=True)
        ]


def _check(report: Report) -> None:
    if not report.samples:
        raise ValueError("write_report: samples must hold at least one sample, got none; detect some first")
    if not math.isfinite(report.threshold):
        raise ValueError(f"write_report: threshold must be finite, got {report.threshold}; fit the detector first")
    views = len(report.views)
    for sample in report.samples:
        for name, dims in DIMENSIONS.items():
            value = getattr(sample, name)
            if value is None:
                continue
            shape, sizes = np.shape(value), dims.split()
            if len(shape) != len(sizes) or shape[0] != views or ("3" in sizes and shape[1] != 3):
                raise ValueError(
                    f"write_report: {name} of sample {sample.id!r} must be [{dims}] with V={views}, "
                    f"got {list(shape)}; the views are {', '.join(report.views)}"
                )
        for name in ("maps", "view_scores", "sample_score"):
            if not np.isfinite(as_numpy(getattr(sample, name))).all():
                raise ValueError(
                    f"write_report: {name} of sample {sample.id!r} must be finite, got NaN or infinity; "
                    f"look at that sample's images"
                )


def _meter(scores: Sequence[float], threshold: float) -> Callable[[float], float]:
    """The percentage of a meter's length that a score fills; every score and the threshold fit."""
    low, high = min(0.0, threshold, *scores), max(threshold, *scores)
    return lambda score: 100 * (score - low) / (1.02 * (high - low) or 1.0)


def _kinds(cards: Sequence[_Card]) -> list[dict[str, Any]]:
    """Verdicts for each kind of labeled sample: normal first, then every kind of defect by name."""
    groups: dict[tuple[bool, str], list[_Card]] = {}
    for card in cards:
        if card.label is not None:
            name = (card.sample.defect or "defect") if card.label else "normal"
            groups.setdefault((card.label, name), []).append(card)
    rows = []
    for (label, name), members in sorted(groups.items()):
        scores = [card.sample.sample_score for card in members]
        rows.append(
            {
                "name": name,
                "count": len(members),
                "right": sum(card.defective == label for card in members),
                "scores": (min(scores), float(np.median(scores)), max(scores)),
            }
        )
    return rows


def _metric_rows(rows: Sequence[tuple[str, Result]]) -> list[dict[str, Any]]:
    """Values in the order of the columns; "best" where rows can be compared and no other row has more."""
    best = {
        (level, name): max((v for _, r in rows if (v := r[level][name]) is not None), default=None)
        for level, names in LEVELS.items()
        for name in names
    }
    return [
        {
            "name": name,
            "levels": [
                [
                    {
                        "value": result[level][n],
                        "best": len(rows) > 1 and result[level][n] == best[level, n] is not None,
                    }
                    for n in names
                ]
                for level, names in LEVELS.items()
            ],
        }
        for name, result in rows
    ]


def _charts(cards: Sequence[_Card], threshold: float) -> list[dict[str, Any]]:
    """Histograms of the sample scores and of the view scores, by truth."""
    samples = [(card.sample.sample_score, card.label) for card in cards]
    views = [(score, truth) for card in cards for _, score, truth in card.views]
    return [_histogram("Sample scores", samples, threshold), _histogram("View scores", views, threshold)]


def _histogram(title: str, scored: Sequence[tuple[float, bool | None]], threshold: float) -> dict[str, Any]:
    """Bars in chart coordinates, one series each for normal, defective and unlabeled where there are any."""
    scores = np.array([score for score, _ in scored])
    low, high = min(scores.min(), threshold), max(scores.max(), threshold)
    width = (high - low or 1.0) / float(np.clip(2 * math.sqrt(len(scores)), 12, 48))
    # The threshold is an edge, so that no bar holds samples of both verdicts.
    below, above = math.ceil((threshold - low) / width), math.floor((high - threshold) / width) + 1
    edges = [threshold + i * width for i in range(-below, above + 1)]
    series = []
    for name, truth in (("normal", False), ("defective", True), ("unlabeled", None)):
        chosen = scores[[t is truth for _, t in scored]]
        if len(chosen):
            series.append((name, len(chosen), np.histogram(chosen, edges)[0]))
    top = max(int(counts.max()) for _, _, counts in series)
    y_ticks = [t for t in _ticks(0, top, 4) if t.is_integer()]

    def x(value: float) -> float:
        return round(CHART_LEFT + CHART_WIDTH * (value - edges[0]) / (edges[-1] - edges[0]), 1)

    def y(count: float) -> float:
        return round(CHART_TOP + CHART_HEIGHT * (1 - count / top), 1)

    def bars(counts: Iterable[int]) -> str:
        spans = zip(edges[:-1], edges[1:], counts, strict=True)
        return "".join(f"M{x(a)} {y(0)}V{y(n)}H{x(b)}V{y(0)}Z" for a, b, n in spans if n)

    return {
        "title": title,
        "series": [{"name": name, "count": count, "path": bars(counts)} for name, count, counts in series],
        "x_ticks": [(x(t), f"{t:.4g}") for t in _ticks(edges[0], edges[-1], 6)],
        "y_ticks": [(y(t), int(t)) for t in y_ticks],
        "threshold_x": x(threshold),
        "left": CHART_LEFT,
        "right": CHART_LEFT + CHART_WIDTH,
        "top": CHART_TOP,
        "bottom": CHART_TOP + CHART_HEIGHT,
    }


def _ticks(low: float, high: float, count: int) -> list[float]:
    """At most about ``count`` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    step: float = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1.0, 2.0, 5.0, 10.0) if (high - low) / (m * step) <= count)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
