"""vsad threshold: another threshold for what was inspected, without inspecting again."""

import json
import shutil

import pytest

from tests.stations import command, make_station
from vsad.detection import Detector
from vsad.pipeline import Detections


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    folder = make_station(tmp_path_factory.mktemp("station"))
    assert command("detect", "data", cwd=folder).code == 0
    return folder


@pytest.fixture
def folder(inspected, tmp_path):
    shutil.copytree(inspected, tmp_path / "copy")
    return tmp_path / "copy"


def verdicts(folder):
    return {name: row["verdict"] for name, row in Detections.load(folder / "detections").rows.items()}


def test_a_value_decides_every_sample_anew_as_an_inspection_with_it_would(folder):
    before = Detections.load(folder / "detections")
    scores = {name: row["score"] for name, row in before.rows.items()}
    value = sum(sorted(scores.values())[:2]) / 2  # between the two good ones
    ended = command("threshold", "--value", value, "--detector", "detector", cwd=folder)
    assert ended.code == 0, ended.err
    assert float(ended.out) == pytest.approx(value, rel=1e-5)
    assert verdicts(folder) == {name: "defect" if score >= value else "ok" for name, score in scores.items()}
    assert "1 of 2 good samples were called DEFECT; 2 of 2 defective ones were" in ended.err
    assert Detector.from_pretrained(folder / "detector").threshold == value
    again = command("detect", "data", "--out", "new", cwd=folder)  # by the detector's new threshold
    assert again.code == 0
    for name in scores:
        anew, right = (Detections.load(folder / out).record(name) for out in ("detections", "new"))
        assert (anew.verdict, anew.score, anew.threshold) == (right.verdict, right.score, right.threshold)
        for v, (mine, other) in enumerate(zip(anew.views, right.views, strict=True)):
            # Maps are read in 16 bits: a pixel within a step of the threshold may fall on either side.
            near = Detections.load(folder / "new").map(right, v).sub(value).abs() <= (mine.high - mine.low) / 65535
            areas = [sum(region.area for region in each.regions) for each in (mine, other)]
            assert abs(areas[0] - areas[1]) <= int(near.sum())
    overlay = Detections.load(folder / "detections").record("blot/000").views[0].overlay
    assert (folder / "detections" / overlay).read_bytes() != (inspected_overlay(folder, overlay)).read_bytes()


def inspected_overlay(folder, overlay):
    """The same picture with the first threshold."""
    command("threshold", "--value", 1e6, cwd=folder)
    return folder / "detections" / overlay


def test_a_detection_goes_on_with_the_new_threshold_and_inspects_nothing_again(folder):
    command("detect", "data", "--fresh", cwd=folder)  # these files, where they are now
    command("threshold", "--value", 1e6, "--detector", "detector", cwd=folder)
    ended = command("detect", "data", cwd=folder)
    assert "detect:" not in ended.err  # no stage: nothing was left to inspect
    assert set(verdicts(folder).values()) == {"ok"}
    assert command("eval", "data", cwd=folder).code == 0


def test_the_best_f1_lies_between_good_and_defective_ones(folder):
    ended = command("threshold", "--f1-max", "--json", cwd=folder)
    told = json.loads(ended.out)
    assert told == {
        "threshold": told["threshold"], "false_alarms": 0, "good": 2, "defects_found": 2, "defects": 2,
    }  # fmt: skip
    scores = {name: row["score"] for name, row in Detections.load(folder / "detections").rows.items()}
    assert max(scores[f"good/00{i}"] for i in (0, 1)) < told["threshold"] <= min(scores[f"blot/00{i}"] for i in (0, 1))


def test_a_rate_is_told_with_what_so_few_samples_support(folder):
    ended = command("threshold", "--false-alarms", 0.1, cwd=folder)
    assert ended.code == 0, ended.err
    assert "from 2 good samples: 10.0% false alarms asked" in ended.err
    assert float(ended.out) > max(
        row["score"] for name, row in Detections.load(folder / "detections").rows.items() if "good" in name
    )


REFUSED = {
    "nothing chosen": ([], "give one of them"),
    "two chosen": (["--value", 1, "--f1-max"], "give one of them"),
    "no number": (["--value", "nan"], "value must be finite"),
    "no rate": (["--false-alarms", 0], "between 0 and 1"),
    "no detections": (["nowhere", "--value", 1], "nowhere/detections.json is missing"),
    "no detector": (["--value", 1, "--detector", "nowhere"], "nowhere/detector.json is missing"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(folder, wrong):
    arguments, said = REFUSED[wrong]
    before = {path: path.read_bytes() for path in (folder / "detections").rglob("*") if path.is_file()}
    ended = command("threshold", *arguments, cwd=folder)
    assert ended.code == 1
    assert said in ended.err
    assert {path: path.read_bytes() for path in (folder / "detections").rglob("*") if path.is_file()} == before


def test_unlabeled_samples_have_no_best_f1_and_one_good_sample_no_rate(folder):
    command("detect", "data/test/good", "--out", "new", cwd=folder)
    for choice in (["--f1-max"], ["--false-alarms", 0.1]):
        ended = command("threshold", "new", *choice, cwd=folder)
        assert ended.code == 1
        assert "must hold" in ended.err
    shutil.rmtree(folder / "data/test/good/001")
    command("detect", "data", "--out", "one", cwd=folder)
    ended = command("threshold", "one", "--false-alarms", 0.1, "--detector", "detector", cwd=folder)
    assert ended.code == 1
    assert "must hold at least 2 samples that are known to be good, got 1" in ended.err
