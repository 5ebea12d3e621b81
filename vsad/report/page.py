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
    rows = _metric_rows(report.metrics)
    html = environment.get_template("report.html").render(
        report=report,
        cards=cards,
        pictures=pictures,
        outcomes=outcomes,
        categories=sorted({card.category for card in cards if card.category}),
        kinds=kinds_of_sample(cards),
        unjudged=any(view.unjudged for card in cards for view in card.views),
        metrics=rows,
        intervals=any(cell["interval"] for row in rows for cells in row["levels"] for cell in cells),
        levels=[(level.capitalize(), [METRIC_NAMES[n] for n in names]) for level, names in LEVELS.items()],
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


def _metric_rows(rows: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]]) -> list[dict[str, Any]]:
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
                        "interval": result[level].get(f"{n}_interval"),
                        "best": len(rows) > 1 and result[level][n] == best[level, n] is not None,
                    }
                    for n in names
                ]
                for level, names in LEVELS.items()
            ],
        }
        for name, result in rows
    ]
