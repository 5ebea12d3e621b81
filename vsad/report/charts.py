"""Histograms of scores, in the coordinates of an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vsad.report.cards import Card

CHART_LEFT, CHART_TOP, CHART_WIDTH, CHART_HEIGHT = 36.0, 26.0, 396.0, 150.0


def charts(cards: Sequence[Card], threshold: float) -> list[dict[str, Any]]:
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
