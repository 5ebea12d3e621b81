"""One self-contained HTML page of what a detector decided and why: verdicts, metrics, scores, heat maps.

Pictures are data URIs and charts are inline SVG; the page asks the network for nothing: mail it, archive it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from vsad.files import write_text
from vsad.metrics import LEVELS, Result, as_numpy
from vsad.report.cards import Card, kinds_of_sample
from vsad.report.charts import charts
from vsad.report.content import Report
from vsad.report.pictures import Scale, photograph

TEMPLATES = Path(__file__).parent / "templates"
METRIC_NAMES = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "aupro": "AUPRO"}
DIMENSIONS = {
    "images": "V 3 H W",
    "maps": "V h w",
    "masks": "V h w",
    "view_scores": "V",
    "view_labels": "V",
    "unjudged": "V",
}


def write_report(path: str | Path, report: Report, *, image_size: int = 256, max_pictures: int = 200) -> Path:
    """Write the report as one HTML file.

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
    cards = [Card(sample, report) for sample in report.samples]
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
        drawn=[
            [
                (photograph(x, image_size), photograph(y, image_size))
                for x, y in zip(as_numpy(r.images), as_numpy(r.drawn))
            ]
            for r in report.reconstructions
        ],
        outcomes=Counter(card.outcome for card in cards),
        categories=sorted({s.category for s in report.samples if s.category}),
        unjudged=any(share for card in cards for share in card.unjudged),
        outlined=any(s.masks is not None for s in report.samples),
        kinds=kinds_of_sample(cards),
        metrics=_metric_rows(report.metrics),
        levels=[(level.capitalize(), [METRIC_NAMES[n] for n in names]) for level, names in LEVELS.items()],
        charts=charts(cards, report.threshold),
        scale=scale,
        meter=_meter([sample.sample_score for sample in report.samples], report.threshold),
    )
    return write_text(path, html)


def format_score(value: float) -> str:
    """Four significant digits, trailing zeros kept so that columns line up."""
    return f"{value:#.4g}".removesuffix(".")


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
        for name in ("maps", "view_scores", "sample_score", "unjudged"):
            if getattr(sample, name) is not None and not np.isfinite(as_numpy(getattr(sample, name))).all():
                raise ValueError(
                    f"write_report: {name} of sample {sample.id!r} must be finite, got NaN or infinity; "
                    f"look at that sample's images"
                )


def _meter(scores: Sequence[float], threshold: float) -> Callable[[float], float]:
    """The percentage of a meter's length that a score fills; every score and the threshold fit."""
    low, high = min(0.0, threshold, *scores), max(threshold, *scores)
    return lambda score: 100 * (score - low) / (1.02 * (high - low) or 1.0)


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
