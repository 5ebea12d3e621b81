"""The report: complete in itself, escaped, and saying exactly what it was given."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.small_report import DASH, HOSTILE, VIEWS, Page, report, sample
from vsad.metrics import evaluate
from vsad.report import Report, ReportSample, write_report
from vsad.report.page import format_score
from vsad.report.pictures import Scale, outline, photograph, reduced


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(tmp_path / "new" / "report.html", report()))


def test_the_page_asks_the_network_for_nothing(page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", page.source)
    for tag, attrs, _ in page.elements:
        assert tag not in {"link", "iframe", "object", "base"}
        assert attrs.get("src", "data:image/").startswith("data:image/")
        assert attrs.get("href", "#").startswith("#")
    policies = [attrs["content"] for attrs, _ in page.find("meta") if "http-equiv" in attrs]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]


def test_what_users_name_is_text_never_markup(page: Page) -> None:
    scripts = page.find("script")
    assert [attrs.get("id") for attrs, _ in scripts] == ["rig", None, None]
    assert not any("alert(" in text for _, text in scripts)
    assert HOSTILE in [text for _, text in page.find("h3")]
    assert HOSTILE in [attrs["data-name"] for attrs, _ in page.find("article")]
    assert page.find("h1")[0][1] == page.find("title")[0][1] == "Bolts <M8>"
    assert "no <alignment>" in [text for attrs, text in page.find("th") if attrs.get("scope") == "col"]
    facts = [text for _, text in page.find("dl", "facts")]
    assert facts == ["Data set line 7 & 8 Seconds 12.5"]


def test_every_sample_has_a_card_wrong_verdicts_first(page: Page) -> None:
    cards = page.find("article", "card")
    assert [attrs["data-name"] for attrs, _ in cards] == ["bad-2", "good-2", HOSTILE, "bad-1", "good-1"]
    assert [attrs["data-verdict"] for attrs, _ in cards] == ["ok", "defect", "defect", "defect", "ok"]
    assert ["wrong" in attrs["class"].split() for attrs, _ in cards] == [True, True, False, False, False]
    outcomes = ["missed", "false alarm", "found", "found", "passed"]
    assert [attrs["data-outcome"] for attrs, _ in cards] == outcomes
    assert [attrs["data-kind"] for attrs, _ in cards] == ["dent", "normal", "scratch", "scratch", "normal"]
    assert [text for _, text in page.find("span", "truth")] == [
        "Missed defect, truth: dent",
        "False alarm, truth: normal",
        "Right, truth: scratch",
        "Right, truth: scratch",
        "Right, truth: normal",
    ]
    for attrs, text in cards:
        for score in (0.5, float(attrs["data-score"]), 0.25):
            assert format_score(score) in text
        assert all(view in text for view in VIEWS)


def test_pictures_have_layers_names_and_buttons(page: Page) -> None:
    buttons = page.find("button", "picture")
    assert len(buttons) == 15
    assert all(attrs["aria-pressed"] == "true" and attrs["type"] == "button" for attrs, _ in buttons)
    images = [attrs for attrs, _ in page.find("img")]
    assert all(attrs["alt"] and attrs["loading"] == "lazy" for attrs in images)
    assert "bad-1, view left: photograph" in [attrs["alt"] for attrs in images]
    assert len(page.find("svg", "outline")) == 3  # one defective view in each of three defective samples
    for attrs, shape in zip(images, [(24, 32, 3), (24, 32, 4)]):
        data = base64.b64decode(attrs["src"].partition(",")[2])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape == shape


def test_metrics_are_the_given_values(page: Page) -> None:
    table = page.source[page.source.index('id="metrics"') :]
    cells = [text for attrs, text in page.find("td")][6:26]  # after the table of verdicts
    first = ["91.23", "80.00", "75.00", "67.89", "91.23", "80.00", "75.00", "91.23", DASH, "75.00"]
    second = ["81.23", "70.00", "75.00", "77.89", "81.23", "70.00", "75.00", "81.23", DASH, "75.00"]
    assert (cells[::2], cells[1::2]) == (first, second)
    best = re.findall(r"<b>([\d.]+)</b>", table[: table.index("</table>")])
    assert best == [
        "91.23", "80.00", "75.00", "75.00", "77.89",  # pixel: equal values are both the best
        "91.23", "80.00", "75.00", "75.00", "91.23", "75.00", "75.00",
    ]  # fmt: skip


def test_summary_counts(page: Page) -> None:
    tiles = [text for _, text in page.find("li")]
    assert tiles == [
        "5 samples of 3 views",
        "3 judged DEFECT",
        "2 judged OK",
        "1 missed of 3 defective samples",
        "1 false alarm in 2 normal samples",
        "60.0 % of verdicts right",
    ]
    rows = [text for _, text in page.find("tr")]
    assert "normal 2 1 1 1.250 2.000 2.750" in rows
    assert "scratch 2 2 0 3.500 3.812 4.125" in rows


def test_verdicts_stand_against_the_truth_with_their_rates(page: Page) -> None:
    cells = [text for _, text in page.find("td")][:6]
    assert [re.sub("\u202f", " ", cell) for cell in cells] == [
        "2 (66.7 %)",
        "1 (33.3 %)",
        "3",
        "1 (50.0 %)",
        "1 (50.0 %)",
        "2",
    ]


def test_calibration_shows_every_pair_of_the_rig(page: Page) -> None:
    cells = [text for _, text in page.find("td")]
    assert cells[-6:] == ["120", "0.46", "3", "0.25", DASH, DASH]
    sentence = "3 pairs of views have a homography; the largest reprojection error is 0.46 px."
    assert sentence in [text for _, text in page.find("p")]


def test_histograms_hold_every_score_and_break_at_the_threshold(page: Page) -> None:
    charts = [
        attrs["aria-label"] for attrs, _ in page.find("svg") if attrs.get("role") == "img" and "aria-label" in attrs
    ]
    assert "Sample scores: histogram, 2 normal, 3 defective; threshold 2.500" in charts
    assert "View scores: histogram, 12 normal, 3 defective; threshold 2.500" in charts
    x = next(float(attrs["x1"]) for attrs, _ in page.find("line", "threshold"))
    bars = [
        (float(a), float(b))
        for attrs, _ in page.find("path", "series")[:2]
        for a, b in re.findall(r"M([\d.]+) [\d.]+V[\d.]+H([\d.]+)", attrs["d"])
    ]
    assert len(bars) == 5
    assert sum(b <= x for _, b in bars) == 2
    assert sum(a >= x for a, _ in bars) == 3


def test_definitions_say_how_scores_and_metrics_are_made(page: Page) -> None:
    definitions = [text for _, text in page.find("dd")]
    assert any(text.startswith("The maximum of the maps of the sample's views.") for text in definitions)
    assert any("8-connected" in text and "0.3" in text for text in definitions)


def test_what_nobody_judges_is_written_where_it_is_much(tmp_path: Path) -> None:
    dim = sample("dim", 1.5, False, unjudged=torch.tensor([0.0, 0.18, 0.04]))
    page = Page(write_report(tmp_path / "r.html", report(samples=[dim, sample("clear", 1.0, False)])))
    captions = [text for _, text in page.find("figcaption") if "unjudged" in text]
    assert captions == ["left 1.500 18 % unjudged"]
    assert "Unjudged" in [text for _, text in page.find("dt")]
    clear = Page(write_report(tmp_path / "r.html", report(samples=[sample("clear", 1.0, False)])))
    assert "Unjudged" not in [text for _, text in clear.find("dt")]


def test_unlabeled_images_get_verdicts_only(tmp_path: Path) -> None:
    unknown = [sample("a", 3.0, None), sample("b", 1.0, None)]
    page = Page(write_report(tmp_path / "r.html", Report("Today", VIEWS, unknown, threshold=2.5)))
    assert [text for _, text in page.find("span", "verdict")] == ["✕ DEFECT", "✓ OK"]
    assert [text for _, text in page.find("li")] == ["2 samples of 3 views", "1 judged DEFECT", "1 judged OK"]
    headings = [text for _, text in page.find("h2")]
    assert headings == ["Summary", "Scores", "Samples", "Definitions"]
    assert page.find("span", "truth") == page.find("span", "mark") == page.find("svg", "outline") == []
    assert "AUROC" not in page.source
    assert [text for attrs, text in page.find("option") if "wrong" in attrs.get("value", "")] == []


def test_a_test_set_without_defects_still_gets_its_report(tmp_path: Path) -> None:
    normal = [sample("a", 1.0, False), sample("b", 1.5, False)]
    maps, masks = torch.stack([s.maps for s in normal]), torch.stack([s.masks for s in normal])
    view_scores = torch.stack([s.view_scores for s in normal])
    labels = torch.zeros(2, 3, dtype=torch.bool)
    result = evaluate(maps, masks, view_scores, labels, view_scores.amax(1), labels.any(1))
    page = Page(write_report(tmp_path / "r.html", Report("Good", VIEWS, normal, 2.0, metrics=[("vsad", result)])))
    assert [text for _, text in page.find("td")][6:16] == [DASH] * 10
    assert "0 missed of 0 defective samples" in [text for _, text in page.find("li")]


def test_categories_can_be_chosen_where_there_are_several(tmp_path: Path) -> None:
    mixed = [sample("a", 1.0, None, category="bolt"), sample("b", 3.0, None, category="nut")]
    page = Page(write_report(tmp_path / "r.html", Report("Two", VIEWS, mixed, threshold=2.0)))
    assert [text for _, text in page.find("span", "category")] == ["nut", "bolt"]
    assert {"bolt", "nut"} <= {text for _, text in page.find("option")}


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.0, 100.0])
def test_any_threshold_and_equal_scores_make_a_page(tmp_path: Path, threshold: float) -> None:
    flat = dataclasses.replace(sample("a", 1.0, None, view_scores=[1.0, 1.0, 1.0]), maps=np.ones((3, 4, 5), np.float32))
    page = Page(write_report(tmp_path / "r.html", Report("Flat", VIEWS, [flat], threshold)))
    expected = "✕ DEFECT" if threshold <= 1.0 else "✓ OK"
    assert [text for _, text in page.find("span", "verdict")] == [expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": []}, "samples must hold at least one sample"),
        ({"threshold": float("nan")}, "threshold must be finite, got nan"),
        (
            {"views": ("a", "b"), "calibration": []},
            r"images of sample 'good-1' must be \[V 3 H W\] with V=2, got \[3, 3, 24, 32\]",
        ),
        ({"samples": [sample("x", float("inf"), None)]}, "view_scores of sample 'x' must be finite"),
        ({"samples": [dataclasses.replace(sample("x", 1.0, None), maps=torch.full((3, 2, 2), torch.nan))]}, "maps of"),
        ({"samples": [sample("x", 1.0, None, view_labels=[True])]}, r"view_labels of sample 'x' must be \[V\]"),
    ],
)
def test_wrong_inputs_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"write_report: {message}"):
        write_report(tmp_path / "r.html", report(**change))
    assert not (tmp_path / "r.html").exists()


def test_forty_samples_of_five_views_stay_under_fifteen_megabytes(tmp_path: Path) -> None:
    # The hardest picture there is, noise at full size; two samples stand for forty.
    rng = np.random.default_rng(0)
    hard = [
        ReportSample(
            str(i),
            cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 15), np.uint8), (3, 3), 0)
            .reshape(256, 256, 5, 3)
            .transpose(2, 3, 0, 1),
            cv2.GaussianBlur(rng.random((256, 256, 5), np.float32), (0, 0), 4).transpose(2, 0, 1),
            np.zeros(5),
            0.0,
        )
        for i in range(2)
    ]
    size = write_report(tmp_path / "r.html", Report("Size", list("abcde"), hard, 0.6)).stat().st_size
    assert 20 * size < 15e6


def test_heat_is_clear_where_normal_and_strong_where_not() -> None:
    scale = Scale(threshold=0.5)
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[:, 16:] = 500.0
    data = base64.b64decode(scale.heat(anomaly_map, 64).partition(",")[2])
    alpha = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3]
    assert alpha[:, :14].max() == 0
    assert alpha[:, 18:].min() == pytest.approx(0.85 * 255, abs=2)
    opacity = scale.colors[:, 3].astype(int)
    assert (np.diff(opacity) >= 0).all()
    assert opacity[127] == pytest.approx(127, abs=3)


def test_the_scale_rises_evenly_to_the_threshold_and_never_ends() -> None:
    scale = Scale(threshold=2.0)
    np.testing.assert_allclose(
        scale.share(np.array([-3, 0, 1, 2, 4, 8, 2e6])), [0, 0, 0.25, 0.5, 0.75, 0.875, 1 - 5e-7]
    )
    assert scale.ticks == [(0.0, 0.0), (50.0, 2.0), (75.0, 4.0), (90.0, 10.0)]


@pytest.mark.parametrize("threshold", [-1.5, 0.0])
def test_a_threshold_that_is_not_positive_still_stands_in_the_middle(threshold: float) -> None:
    scale = Scale(threshold)
    np.testing.assert_allclose(scale.share(np.array([threshold - 1, threshold, threshold + 1])), [0, 0.5, 0.75])


def test_photographs_keep_their_colors_and_shrink() -> None:
    image = np.zeros((3, 60, 120), np.float32)
    image[0] = 1.0  # red
    for given in (image, (255 * image).astype(np.uint8)):
        data = base64.b64decode(photograph(given, 40).partition(",")[2])
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (20, 40, 3)
        np.testing.assert_allclose(decoded[10, 20], [0, 0, 255], atol=4)
    small = np.zeros((8, 9), np.float32)
    assert reduced(small, 16) is small


def test_outlines_follow_regions_and_single_pixels() -> None:
    mask = np.zeros((20, 30), bool)
    assert outline(mask, 256) == ""
    mask[4:9, 10:21] = True
    corners = {tuple(map(int, p.split())) for p in re.findall(r"\d+ \d+", outline(mask, 256))}
    assert corners == {(10, 4), (20, 4), (20, 8), (10, 8)}
    mask[15, 2] = True
    assert "M2 15Z" in outline(mask, 256)
