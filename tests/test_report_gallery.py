"""Which samples keep their pictures, and that no more than these are kept while samples go by."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.small_report import Page
from vsad.report import Report, ReportSample, write_report

VIEWS = ("a", "b")


def made(name: str, score: float, label: bool | None) -> ReportSample:
    images = np.full((2, 3, 16, 16), 0.5, np.float32)
    return ReportSample(name, images, np.zeros((2, 8, 8), np.float32), [score, 0.0], score, label=label)


def shown(path: Path) -> list[str]:
    """Names of the samples that have pictures."""
    page = Page(path)
    return [attrs["data-name"] for attrs, _ in page.find("article", "card") if "plain" not in attrs["class"].split()]


def one_sample_bytes(tmp_path: Path) -> int:
    """How much room the pictures of one sample take, by trial."""
    report = Report("One", VIEWS, [made("x", 1.0, None)], 2.0)
    sources = [len(attrs["src"]) for attrs, _ in Page(write_report(tmp_path / "one.html", report)).find("img")]
    assert len(sources) == 4
    return sum(sources)


def labeled() -> list[ReportSample]:
    normal = [made(f"normal-{i:02}", 0.1 * i, False) for i in range(20)]
    defective = [made(f"defective-{i:02}", 3.0 + 0.1 * i, True) for i in range(20)]
    wrong = [made("alarm", 2.5, False), made("missed", 1.0, True)]
    return normal + defective + wrong


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wrong_verdicts_then_both_ends_of_either_truth_in_any_order(tmp_path: Path, seed: int) -> None:
    samples = labeled()
    random.Random(seed).shuffle(samples)
    room = 6 * one_sample_bytes(tmp_path)
    path = write_report(tmp_path / "r.html", Report("Many", VIEWS, samples, 2.0), picture_bytes=room)
    assert set(shown(path)) == {"alarm", "missed", "normal-00", "normal-19", "defective-00", "defective-19"}
    notes = [text for _, text in Page(path).find("p", "note")]
    assert (
        "Pictures are kept for 6 of 42 samples: wrong verdicts first, then the highest and the lowest scores." in notes
    )


def test_wrong_verdicts_leave_no_room_for_others_where_there_are_many(tmp_path: Path) -> None:
    wrong = [made(f"missed-{i}", 0.1 * i, True) for i in range(9)]
    right = [made(f"normal-{i}", 0.1 * i, False) for i in range(9)]
    room = 4 * one_sample_bytes(tmp_path)
    path = write_report(tmp_path / "r.html", Report("Bad", VIEWS, right + wrong, 2.0), picture_bytes=room)
    assert len(shown(path)) == 4
    assert all(name.startswith("missed") for name in shown(path))
    assert "missed-0" in shown(path)


def test_every_sample_is_shown_where_there_is_room(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", Report("All", VIEWS, labeled(), 2.0))
    assert len(shown(path)) == 42
    assert not any("Pictures are kept" in text for _, text in Page(path).find("p", "note"))


def test_no_room_makes_a_page_of_scores(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", Report("None", VIEWS, labeled(), 2.0), picture_bytes=0))
    assert page.find("img") == []
    assert len(page.find("article")) == 42
    assert page.find("p", "bare")[0][1].split() == ["a", "1.000", "·", "b", "0.000"]


def test_samples_are_read_once_and_none_is_kept(tmp_path: Path) -> None:
    alive: list[weakref.ref] = []

    def samples() -> Iterator[ReportSample]:
        for i in range(30):
            yielded = made(f"sample-{i}", float(i), None)
            alive.append(weakref.ref(yielded))
            yield yielded
            del yielded
            gc.collect()
            # The report may still hold the sample it is reading, and no other.
            assert sum(ref() is not None for ref in alive) <= 1

    path = write_report(tmp_path / "r.html", Report("Stream", VIEWS, samples(), 2.0))
    assert len(alive) == len(shown(path)) == 30
