"""A small report of everything a page can show, and a reader of pages that knows no browser."""

from __future__ import annotations

import dataclasses
import html
from html.parser import HTMLParser
from pathlib import Path

import torch

from vsad.geometry import RigPair
from vsad.report import Report, ReportSample

VIEWS = ("front", "left", "right")
VOID = {"meta", "img", "input", "link", "br"}
DASH = html.unescape("&ndash;")
HOSTILE = '<script>alert("x")</script> & co'


class Page(HTMLParser):
    """Checks that tags nest, and keeps elements as (tag, attributes, text inside)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.stack: list[int] = []
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(self.source)
        self.close()
        assert not self.stack, f"never closed: {[self.elements[i][0] for i in self.stack]}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.stack.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        opened = self.elements[self.stack.pop()][0]
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data):
        for i in self.stack:
            self.elements[i][2].append(data)

    def find(self, tag: str, css_class: str | None = None) -> list[tuple[dict[str, str], str]]:
        return [
            (attrs, " ".join(" ".join(text).split()))
            for name, attrs, text in self.elements
            if name == tag and (css_class is None or css_class in attrs.get("class", "").split())
        ]


def sample(name: str, score: float, label: bool | None, **extra) -> ReportSample:
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    images = torch.rand(3, 3, 24, 32, generator=g)
    maps = torch.rand(3, 24, 32, generator=g)
    masks = torch.zeros(3, 24, 32, dtype=torch.bool)
    if label:
        masks[1, 5:10, 8:20] = True
    values = {"masks": None if label is None else masks, "view_scores": torch.tensor([0.5, score, 0.25]), **extra}
    return ReportSample(id=name, images=images, maps=maps, sample_score=score, label=label, **values)


def samples() -> list[ReportSample]:
    return [
        sample("good-1", 1.25, False),
        sample("good-2", 2.75, False),
        sample("bad-1", 3.5, True, defect="scratch"),
        sample("bad-2", 1.75, True, defect="dent"),
        sample(HOSTILE, 4.125, True, defect="scratch"),
    ]


def metrics(shift: float = 0.0) -> dict[str, dict[str, float | None]]:
    three = {"auroc": 0.91234 - shift, "ap": 0.8 - shift, "f1_max": 0.75}
    return {"pixel": {**three, "aupro": 0.6789 + shift}, "view": dict(three), "sample": {**three, "ap": None}}


def report(**changes) -> Report:
    base = Report(
        title="Bolts <M8>",
        views=VIEWS,
        samples=samples(),
        threshold=2.5,
        metrics=[("vsad", metrics()), ("no <alignment>", metrics(0.1))],
        calibration=[
            RigPair("front", "left", torch.eye(3), 120, 0.4567),
            RigPair("front", "right", torch.eye(3), 3, 0.25),
            RigPair("left", "right", torch.eye(3)),
        ],
        facts={"Data set": "line 7 & 8", "Seconds": 12.5},
    )
    return dataclasses.replace(base, **changes)
