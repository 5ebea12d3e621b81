"""How many samples a threshold calls right and wrong is told alike by every command, and doubt is never quiet."""

import json
import shutil

import pytest

from tests.stations import command, make_station, write_data
from vsad.pipeline.tally import count_verdicts
from vsad.pipeline.verdicts import Verdict, Verdicts
from vsad.terminal import console, show_called

UNKNOWN = "cannot be known from 2 good samples: any share of good products, even all, may be called defective"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A station whose detector learned from two samples."""
    made = make_station(tmp_path_factory.mktemp("station"))
    write_data(made / "two", train=2, good=0, bad=0)
    shutil.rmtree(made / "detector")
    ended = command("fit", "two", "--registration", "off", "--quiet", cwd=made)
    assert ended.code == 0
    assert UNKNOWN in ended.err  # quiet as it is
    return made


def test_all_commands_count_alike(folder):
    ended = command("detect", "data", cwd=folder)
    assert " of 2 good samples were called DEFECT; 2 of 2 defective ones were" in ended.err
    counts = {"false_alarms": 2, "good": 2, "defects_found": 2, "defects": 2}
    changed = json.loads(command("threshold", "--value", 0.5, "--json", cwd=folder).out)
    assert changed == {"threshold": 0.5, **counts}
    ended = command("eval", "data", cwd=folder)
    assert "threshold as given: 0.5" in ended.err
    assert "2 of 2 good samples were called DEFECT; 2 of 2 defective ones were" in ended.err
    told = json.loads((folder / "metrics.json").read_text())
    assert told["categories"]["data"]["verdicts"] == changed
    assert set(told["mean"]) == {"pixel", "view", "sample"}
    assert json.loads(command("eval", "data", "--json", cwd=folder).out)["verdicts"] == changed


def test_what_nothing_is_known_of_is_said_by_who_inspects_quiet_or_not(folder):
    ended = command("detect", "data", "--out", "again", "--quiet", cwd=folder)
    assert ended.err.count(UNKNOWN) == 1
    assert (
        "so few samples cannot tell" in json.loads((folder / "again/detections.json").read_text())["threshold_chosen"]
    )
    ended = command("threshold", "again", "--false-alarms", 0.05, "--json", "--quiet", cwd=folder)
    assert ended.err.count(UNKNOWN) == 1
    assert command("threshold", "again", "--value", 2, "--quiet", cwd=folder).err == ""


def test_images_without_a_view_are_left_out_loudly(folder):
    shutil.copytree(folder / "data/test/good/000", folder / "new/0001")
    for index in range(7):
        shutil.copy(folder / "new/0001/a.png", folder / f"new/0001/elsewhere{index}.png")
    ended = command("detect", "new", "--out", "found", "--quiet", cwd=folder)
    assert ended.err.count("left out new/0001/elsewhere") == 5
    assert "and left out 2 more" in ended.err


def verdicts(*labels, threshold=1.0):
    """Samples in turn at and below the threshold."""
    found = [Verdict(str(i), label, 1.0 - i % 2, i % 2 == 0) for i, label in enumerate(labels)]
    return Verdicts(("top",), threshold, found)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            ["good", "good", "hole", "hole", "hole"],
            "1 of 2 good samples were called DEFECT; 2 of 3 defective ones were",
        ),
        (["good"], "1 of 1 good samples were called DEFECT"),
        (["hole", "hole"], "1 of 2 defective samples were called DEFECT"),
        ([None, None, None], "2 of 3 samples were called DEFECT"),
        ([], ""),
    ],
)
def test_both_halves_are_said(labels, said, monkeypatch):
    lines = []
    monkeypatch.setattr(console, "print", lambda text, **how: lines.append(text))
    monkeypatch.setattr(console, "is_quiet", False)
    show_called(verdicts(*labels))
    assert "\n".join(lines) == said


def test_counts_are_of_samples_whose_truth_is_known():
    assert count_verdicts(verdicts("good", "hole", None)) == {
        "threshold": 1.0, "false_alarms": 1, "good": 1, "defects_found": 0, "defects": 1,
    }  # fmt: skip
