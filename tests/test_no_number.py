"""A sample whose scores are no numbers, as a fault of the device makes them, stops no command and is never good."""

import json
import math

import pytest

from tests.stations import command, copy_to_inspect, make_station
from vsad.detection import Detector
from vsad.pipeline import Detections, Log


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture
def folder(station, tmp_path, monkeypatch):
    """A station whose detector finds no number in the fourth sample that it looks at."""
    copy_to_inspect(station, tmp_path)
    inspect, counts = Detector.inspect, []

    def spoiled(self, samples):
        for found in inspect(self, samples):
            counts.append(1)
            if len(counts) == 4:
                found.maps[1, 3:5, 7] = found.view_scores[1] = math.nan
                found = found._replace(sample_score=found.maps.amax())
            yield found

    monkeypatch.setattr(Detector, "inspect", lambda self, samples: [*spoiled(self, samples)])
    return tmp_path


def lines_of(text):
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_every_command_goes_on_and_all_json_is_valid(folder):
    ended = command("detect", "data", "--json", cwd=folder)
    assert ended.code == 0
    found = {line["id"]: (line["score"], line["verdict"]) for line in lines_of(ended.out)}
    assert found["good/001"] == (None, "defect")
    assert [name for name, (score, _) in found.items() if score is None] == ["good/001"]
    assert "good/001: the score is no number, so it is called DEFECT" in ended.err
    assert command("detect", "data", "--json", cwd=folder).out == ended.out  # of what was kept

    ended = command("eval", "data", "--json", cwd=folder)  # by what has a number
    assert (ended.code, lines_of(ended.out)[0]["sample"]["auroc"]) == (0, 1.0)
    lines_of((folder / "metrics.json").read_text().replace("\n", " "))
    assert "its score is no number" in (folder / "report.html").read_text(encoding="utf-8")
    assert "good/001: the score is no number" in command("eval", "data", cwd=folder).err

    for choice in (["--f1-max"], ["--value", 3]):
        assert command("threshold", "detections", *choice, cwd=folder).code == 0
        assert Detections.load(folder / "detections").rows["good/001"]["verdict"] == "defect"


def test_the_log_holds_what_it_can(folder):
    command("detect", "data", cwd=folder)
    record = Detections.load(folder / "detections").record("good/001")
    log = Log(folder / "log.jsonl")
    log.found(record)
    Log(folder / "log.jsonl").kept(record)  # it is known again
    (line,) = lines_of((folder / "log.jsonl").read_text())
    assert (line["id"], line["score"], line["verdict"]) == ("good/001", None, "defect")
    assert [view["score"] is None for view in line["views"]] == [False, True, False]
