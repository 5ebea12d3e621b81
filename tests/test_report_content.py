"""What a report can show beside its samples, and names of every kind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_report import HOSTILE, VIEWS, Page, metrics, report, sample
from vsad.geometry import RigPair
from vsad.report import CalibrationPicture, CurvePoints, Reconstruction, lay_over, write_report

ROC = [
    CurvePoints("pixel", [0.0, 0.5, 1.0], [0.0, 0.75, 1.0]),
    CurvePoints("sample", torch.tensor([0.0, 1.0]), [0.5, 1]),
]
PRO = [CurvePoints("pixel", np.array([0.0, 0.3]), np.array([0.2, 0.8]))]


def written(tmp_path: Path, **changes) -> Page:
    return Page(write_report(tmp_path / "r.html", report(**changes)))


def test_intervals_stand_beside_their_metrics(tmp_path: Path) -> None:
    given = metrics()
    given["sample"]["auroc_interval"] = (0.95, 1.0)
    page = written(tmp_path, metrics=[("vsad", given)])
    rows = [text for _, text in page.find("tr")]
    assert "In percent vsad interval" in rows
    assert "Sample AUROC 91.23 95.00 to 100.00" in rows
    assert sum(" to " in row for row in rows) == 1
    assert "Interval" in [text for _, text in page.find("dt")]
    without = written(tmp_path)
    assert "interval" not in [text for _, text in without.find("th")]
    assert "Interval" not in [text for _, text in without.find("dt")]


def test_curves_pass_through_their_points(tmp_path: Path) -> None:
    page = written(tmp_path, roc=ROC, pro=PRO)
    pixel, of_samples, overlap = [attrs["d"] for attrs, _ in page.find("path", "curve")]
    # The area is 388 wide from 36, and 240 high from 26.
    assert pixel == "M36.0 266.0L230.0 86.0L424.0 26.0"
    assert of_samples == "M36.0 146.0L424.0 26.0"
    assert overlap == "M36.0 218.0L424.0 74.0"
    mark = page.find("circle", "operating")[0][0]
    # One of two normal samples is a false alarm, two of three defective ones are found.
    assert (float(mark["cx"]), float(mark["cy"])) == (230.0, 106.0)
    assert len(page.find("circle", "operating")) == 1
    definitions = [text for _, text in page.find("dt")]
    assert {"ROC curve", "PRO curve"} <= set(definitions)


def test_curves_need_no_metrics_and_a_report_no_curves(tmp_path: Path) -> None:
    assert "Curves" in [text for _, text in written(tmp_path, metrics=[], roc=ROC).find("h2")]
    assert written(tmp_path).find("path", "curve") == []


def test_what_went_wrong_is_listed_by_name_and_reason(tmp_path: Path) -> None:
    lost = sample("lost", 1.0, False, not_registered="3 of 5 views <agree>")
    page = written(
        tmp_path,
        samples=[lost, sample("x", 3.0, True)],
        skipped=[("cut", "C1.png is cut off"), ("dark", "no light")],
        empty_masks=["dent/7"],
    )
    rows = [text for attrs, text in page.find("ul", "names")]
    assert rows == ["cut : C1.png is cut off dark : no light", "lost : 3 of 5 views <agree>", "dent/7"]
    summaries = [text for _, text in page.find("summary")]
    assert summaries[:3] == [
        "Left out: 2 samples could not be used, and count nowhere",
        "Not registered: 1 sample judged where it lay",
        "No masks: 1 defective sample without a marked defect: it counts as a sample, its pixels and views nowhere",
    ]
    assert "not registered" in page.find("article")[1][1]
    assert "Notices" not in [text for _, text in written(tmp_path).find("h2")]


def test_reasons_found_while_the_samples_are_read_are_listed_too(tmp_path: Path) -> None:
    skipped: list[tuple[str, str]] = []

    def samples():
        yield sample("a", 1.0, False)
        skipped.append(("b", "b/front.png is no image"))
        yield sample("c", 1.0, False)

    page = written(tmp_path, samples=samples(), skipped=skipped)
    assert [text for _, text in page.find("ul", "names")] == ["b : b/front.png is no image"]


def test_calibration_is_shown_before_and_after(tmp_path: Path) -> None:
    before, after = np.zeros((3, 20, 30), np.float32), torch.ones(3, 20, 30)
    page = written(tmp_path, calibration_pictures=[CalibrationPicture("front", "left", before, after)])
    alternatives = [attrs["alt"] for attrs, _ in page.find("img")]
    assert {"left over front, before", "left over front, after"} <= set(alternatives)


def test_views_are_laid_over_each_other_through_their_homography() -> None:
    views = torch.zeros(3, 3, 8, 10)
    views[0, :, 2, 3] = 1.0
    views[1, :, 2, 7] = 1.0  # the same place, 4 pixels to the right
    shift = torch.tensor([[1.0, 0, 4], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    pairs = [RigPair("a", "b", shift), RigPair("b", "a", torch.linalg.inv(shift))]
    (picture,) = lay_over(views, ["a", "b", "c"], pairs)
    assert (picture.target, picture.source) == ("a", "b")
    before, after = torch.zeros(8, 10), torch.zeros(8, 10)
    before[2, 3] = before[2, 7] = 0.5
    after[2, 3] = 1.0
    torch.testing.assert_close(picture.before, before.expand(3, -1, -1))
    torch.testing.assert_close(picture.after, after.expand(3, -1, -1))
    # What the source does not see is the target, dark.
    white = lay_over(torch.ones(2, 3, 8, 10), ["a", "b"], pairs)[0].after
    assert white[:, :, :6].unique().tolist() == [1.0]
    assert white[:, :, 6:].unique().tolist() == pytest.approx([0.35])
    # Twice as large pictures of the same cameras shift by twice as many pixels.
    large = lay_over(torch.ones(2, 3, 16, 20), ["a", "b"], pairs, size=(8, 10))[0].after
    assert large[:, :, :12].unique().tolist() == [1.0]


def test_reconstructions_stand_under_their_samples(tmp_path: Path) -> None:
    drawn = Reconstruction("good/1", torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8))
    page = written(tmp_path, reconstructions=[drawn])
    alternatives = [attrs["alt"] for attrs, _ in page.find("img")]
    assert {"good/1, left", "reconstruction of good/1, left"} <= set(alternatives)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
        ("部品 ٣", "部品 ٣"),
        ("\u202eevil", "\u202eevil"),
        ("a'b\"c</article>&amp;", "a'b\"c</article>&amp;"),
        ("-->{{ 7 * 7 }}<!--", "-->{{ 7 * 7 }}<!--"),
        ("line\nbreak", "line break"),
    ],
)
def test_names_of_every_kind_are_written_as_they_are(tmp_path: Path, name: str, text: str) -> None:
    page = written(
        tmp_path,
        title=name,
        views=(name, "left", "right"),
        samples=[sample(name, 3.0, True, defect=name, category=name, not_registered=name), sample("x", 1.0, False)],
        calibration=[RigPair(name, "left", torch.eye(3), 9, 0.5)],
        roc=[CurvePoints(name, [0, 1], [0, 1])],
        metrics=[(name, metrics())],
        skipped=[(name, name)],
        empty_masks=[name],
        facts={name: name},
    )
    assert page.find("h1")[0][1] == text
    assert page.find("h3")[0][1] == text
    assert len(page.find("article")) == 2
    assert len(page.find("script")) == 3


def test_where_scripts_are_off_nothing_is_offered_that_needs_them(tmp_path: Path) -> None:
    page = written(tmp_path)
    hidden = page.find("noscript")[0][1]
    for selector in (".toolbar", ".tabs", ".enlarge", ".needs-script"):
        assert selector in hidden
    pictures = [attrs["src"] for attrs, _ in page.find("img")]
    assert len(pictures) == 30
    assert all(re.match("data:image/(jpeg|webp);base64,", source) for source in pictures)


def test_galleries_and_filters_name_what_there_is(tmp_path: Path) -> None:
    page = written(tmp_path)
    tabs = [text for attrs, text in page.find("button") if "data-sort" in attrs]
    assert tabs == [
        "All 5", "Wrong verdicts 2", "Normal, highest first 2", "Normal, lowest first 2", "Defective, lowest first 3",
        "Defective, highest first 3",
    ]  # fmt: skip
    options = {attrs["value"] for attrs, _ in page.find("option") if "value" in attrs}
    assert {"wrong", "outcome:missed", "outcome:false alarm", "verdict:ok", "truth:normal", "kind:dent"} <= options
    unknown = written(tmp_path, samples=[sample("a", 1.0, None)], metrics=[])
    tabs = [text for attrs, text in unknown.find("button") if "data-sort" in attrs]
    assert tabs == ["All 1", "Unlabeled, highest first 1", "Unlabeled, lowest first 1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roc": [CurvePoints("pixel", [0, 1], [0])]}, r"roc curve 'pixel' must have as many x as y"),
        ({"pro": [CurvePoints("pixel", [0, 30], [0, 1])]}, r"pro curve 'pixel' must lie in \[0, 1\], got 0.0 to 30.0"),
        ({"roc": [CurvePoints("pixel", [0, np.nan], [0, 1])]}, r"roc curve 'pixel' must lie in \[0, 1\], got nan"),
        ({"calibration": [RigPair("front", "top", torch.eye(3))]}, r"calibration must join .* \(front, left, right\)"),
        (
            {"calibration_pictures": [CalibrationPicture("front", "left", np.zeros((3, 4, 4)), np.zeros((4, 4, 3)))]},
            r"after of front and left must be \[3 H W\]",
        ),
        (
            {"reconstructions": [Reconstruction("x", torch.zeros(3, 3, 4, 4), torch.zeros(2, 3, 4, 4))]},
            r"drawn of 'x' must be \[V 3 H W\] with V=3, got \[2, 3, 4, 4\]",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"write_report: {message}"):
        write_report(tmp_path / "r.html", report(**change))
    assert not (tmp_path / "r.html").exists()


def test_hostile_names_do_not_end_the_script_of_the_rig(tmp_path: Path) -> None:
    page = written(tmp_path, views=(HOSTILE, *VIEWS[1:]), calibration=[RigPair(HOSTILE, "left", torch.eye(3))])
    assert [attrs.get("id") for attrs, _ in page.find("script")] == ["rig", None, None]
