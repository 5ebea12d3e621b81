"""One self-contained HTML page of what a detector decided and why: verdicts, metrics, scores, heat maps.

Pictures are data URIs and charts are inline SVG; the page asks the network for nothing: mail it, archive it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vsad.files import write_text
from vsad.geometry import Size
from vsad.metrics import LEVELS, as_numpy
from vsad.report.cards import Card, kinds_of_sample, layers
from vsad.report.charts import curves, histograms
from vsad.report.checks import check_report, check_sample
from vsad.report.content import Report
from vsad.report.gallery import Gallery, Layers
from vsad.report.pictures import Scale, photograph
from vsad.report.places import chains

TEMPLATES = Path(__file__).parent / "templates"
Metrics = Mapping[str, Mapping[str, Any]]
METRIC_NAMES = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "aupro": "AUPRO"}


def write_report(path: str | Path, report: Report, *, image_size: int = 256, picture_bytes: int = 24_000_000) -> Path:
    """Write the report as one HTML file.

    Memory is bounded: a sample is read once, and of its arrays nothing is kept but small pictures.

    Args:
        path: the file; missing folders are made.
        image_size: the longer side of a picture in the page, in pixels; larger images are reduced to it.
        picture_bytes: what the samples' pictures may take of the file together: those of wrong verdicts first, then
            of the highest and lowest scores of each truth. The other samples keep their card without pictures, and
            the page says so.

    Returns:
        The path written.

    Raises:
        ValueError: no sample, a shape that does not fit the views, or a value that is not finite.
    """
    check_report(report)
    scale = Scale(report.threshold)
    cards, pictures, size = _read(report, scale, image_size, Gallery(picture_bytes))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "photograph": lambda x: photograph(as_numpy(x), image_size)}
    outcomes = Counter(card.outcome for card in cards)
    html = environment.get_template("report.html").render(
        report=report,
        cards=cards,
        pictures=pictures,
        outcomes=outcomes,
        categories=sorted({card.category for card in cards if card.category}),
        kinds=kinds_of_sample(cards),
        unjudged=any(view.unjudged for card in cards for view in card.views),
        runs=[_run(name, result) for name, result in report.metrics],
        metrics=_metric_rows([result for _, result in report.metrics]),
        histograms=histograms(cards, report.threshold),
        curves=curves(report, outcomes),
        rig={"size": size, "chains": chains(report.calibration, report.views, size)} if report.calibration else None,
        scale=scale,
    )
    # Names of files that are no UTF-8 come as lone surrogates, which no file can hold: they are spelled out.
    return write_text(path, html.encode("utf-8", "backslashreplace").decode("utf-8"))


def format_score(value: float) -> str:
    """Four significant digits, trailing zeros kept so that columns line up."""
    return f"{value:#.4g}".removesuffix(".")


def _read(
    report: Report, scale: Scale, image_size: int, gallery: Gallery
) -> tuple[list[Card], dict[int, Layers], Size]:
    """Read the samples: their cards, what is urgent first, pictures by the cards' ``order``, and the images' size."""
    cards: list[Card] = []
    size = report.size
    for sample in report.samples:
        check_sample(sample, report.views)
        card = Card.of(len(cards), sample, report.views, report.threshold)
        cards.append(card)
        size = size or (int(sample.images.shape[2]), int(sample.images.shape[3]))
        if gallery.wants(card):
            gallery.keep(card, layers(sample, scale, image_size))
    if not cards or size is None:
        raise ValueError("write_report: samples must hold at least one sample, got none; detect some first")
    return sorted(cards, key=lambda card: card.urgency), gallery.chosen(), size


def _run(name: str, result: Metrics) -> dict[str, Any]:
    """A column of the metrics, and whether one of their intervals stands beside it."""
    return {"name": name, "has_intervals": any(key.endswith("_interval") for level in result.values() for key in level)}


def _metric_rows(results: Sequence[Metrics]) -> list[dict[str, Any]]:
    """A row for each metric of each level, a cell for each run; "best" where runs can be compared and none has more."""
    rows = []
    for level, names in LEVELS.items() if results else ():
        for name in names:
            values = [result[level][name] for result in results]
            best = max((value for value in values if value is not None), default=None)
            cells = [
                {
                    "value": value,
                    "interval": result[level].get(f"{name}_interval"),
                    "best": len(results) > 1 and value == best is not None,
                }
                for value, result in zip(values, results)
            ]
            label = f"{level.capitalize()} {METRIC_NAMES[name]}"
            rows.append({"name": label, "opens_level": name == names[0], "cells": cells})
    return rows
