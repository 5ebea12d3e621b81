"""Histograms and curves, in the coordinates of an inline SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vsad.report.cards import Card
from vsad.report.content import CurvePoints, Report


@dataclass(frozen=True)
class Axes:
    """Where values lie in a chart.

    Args:
        x_range: values at the left and the right end.
        y_range: values at the bottom and the top.
        height: of the area between them.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    height: float
    left: float = 36.0
    top: float = 26.0
    width: float = 388.0

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(self.left + self.width * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(self.top + self.height * (1 - (value - low) / (high - low)), 1)

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


def histograms(cards: Sequence[Card], threshold: float) -> list[dict[str, Any]]:
    """Histograms of the sample scores and of the view scores, by truth."""
    samples = [(card.score, card.label) for card in cards]
    views = [(view.score, view.defective) for card in cards for view in card.views]
    return [_histogram("Sample scores", samples, threshold), _histogram("View scores", views, threshold)]


def curves(report: Report, outcomes: Counter[str]) -> list[dict[str, Any]]:
    """The ROC and the PRO curve, where the report has them; the verdicts' own place is marked in the ROC curve."""
    mark = None
    good, bad = outcomes["passed"] + outcomes["false alarm"], outcomes["found"] + outcomes["missed"]
    if good and bad:
        mark = outcomes["false alarm"] / good, outcomes["found"] / bad
    found = []
    if report.roc:
        found.append(_curves("ROC curve", "true-positive rate, %", report.roc, mark))
    if report.pro:
        found.append(_curves("PRO curve", "mean overlap with defect regions, %", report.pro, None))
    return found


def _curves(title: str, y_label: str, given: Sequence[CurvePoints], mark: tuple[float, float] | None) -> dict[str, Any]:
    right = max(float(max(curve.x)) for curve in given) or 1.0
    axes = Axes((0.0, 100 * right), (0.0, 100.0), height=240.0)

    def path(curve: CurvePoints) -> str:
        points = zip(curve.x, curve.y, strict=True)
        return "M" + "L".join(f"{axes.x(100 * float(x))} {axes.y(100 * float(y))}" for x, y in points)

    return {
        "title": title,
        "y_label": y_label,
        "axes": axes,
        "series": [{"name": curve.name, "path": path(curve)} for curve in given],
        "x_ticks": [(axes.x(t), f"{t:.4g}") for t in _ticks(*axes.x_range, 6)],
        "y_ticks": [(axes.y(t), f"{t:.4g}") for t in _ticks(*axes.y_range, 5)],
        "mark": mark and (axes.x(100 * mark[0]), axes.y(100 * mark[1])),
    }


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
    axes = Axes((edges[0], edges[-1]), (0.0, float(top)), height=150.0)

    def bars(counts: Iterable[int]) -> str:
        spans = zip(edges[:-1], edges[1:], counts, strict=True)
        base = axes.y(0)
        return "".join(f"M{axes.x(a)} {base}V{axes.y(n)}H{axes.x(b)}V{base}Z" for a, b, n in spans if n)

    return {
        "title": title,
        "axes": axes,
        "series": [{"name": name, "count": count, "path": bars(counts)} for name, count, counts in series],
        "x_ticks": [(axes.x(t), f"{t:.4g}") for t in _ticks(edges[0], edges[-1], 6)],
        "y_ticks": [(axes.y(t), int(t)) for t in _ticks(0, top, 4) if t.is_integer()],
        "threshold_x": axes.x(threshold),
    }


def _ticks(low: float, high: float, count: int) -> list[float]:
    """At most about ``count`` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    step: float = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1.0, 2.0, 5.0, 10.0) if (high - low) / (m * step) <= count)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
