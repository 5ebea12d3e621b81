"""Commands that are killed at any moment go on when they are started again, and give what they give undisturbed."""

import json
import os
import shutil
from collections import Counter

import pytest

from tests.killed import run_and_kill
from tests.stations import command, make_station, write_sample

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs processes that fork")

# What tells when, how fast and in what process something was done.
_OF_THE_PROCESS = ("run.jsonl", "report.html", "log.csv")
COMMANDS = {
    "train": ["train", "data", "--steps", 4, "--set", "train.checkpoint_every=2", "--registration", "on"],
    "fit": ["fit", "data", "--registration", "off"],
    "detect": ["detect", "data"],
    "run": ["run", "data", "--steps", 4, "--vae", "--set", "train.checkpoint_every=2", "--set", "vae.steps=2"],
}
# At which change of a file a process is killed, and at twice as many the next one: early and late ones.
MOMENTS = {"train": (6, 30), "fit": (6, 20), "detect": (6, 40), "run": (12, 70)}


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


def contents(folder):
    """The bytes of every file, but for what tells of the process."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        name: data for name, data in files.items() if not name.endswith(_OF_THE_PROCESS) and "checkpoints" not in name
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on_and_gives_the_same(station, name):
    arguments = COMMANDS[name]
    jobs = [[[*arguments, "--out", f"{name}-whole"], None]]
    for moment in MOMENTS[name]:
        out = f"{name}-{moment}"
        jobs += [
            [[*arguments, "--out", out], moment],
            [[*arguments, "--out", out], 2 * moment],
            [[*arguments, "--out", out], None],
        ]
    statuses = run_and_kill(jobs, station)
    log = (station / "killed.log").read_text()
    assert "Traceback" not in log, log[-3000:]
    assert statuses[0] == 0, log[-3000:]
    whole = contents(station / f"{name}-whole")
    for moment, (first, _, last) in zip(MOMENTS[name], zip(*[iter(statuses[1:])] * 3), strict=True):
        assert first == -9
        assert last == 0, log[-3000:]
        out = station / f"{name}-{moment}"
        found = contents(out)
        assert found.keys() == whole.keys(), moment
        assert [file for file in whole if found[file] != whole[file]] == [], moment
        for journal in out.rglob("run.jsonl"):
            lines = [json.loads(line) for line in journal.read_text().splitlines() if line and _is_whole(line)]
            done = Counter(line["done"] for line in lines if "done" in line)
            assert set(done.values()) <= {1}, (moment, done)


def _is_whole(line):
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_an_output_is_of_one_run(station, tmp_path):
    """Another configuration or other data is refused at once, and --fresh deletes what was there but no other file."""
    for name in ("data", "model", "rig.json"):
        (shutil.copytree if (station / name).is_dir() else shutil.copy)(station / name, tmp_path / name)
    fit = ["fit", "data", "--registration", "off"]
    assert command(*fit, cwd=tmp_path).code == 0
    (tmp_path / "detector/notes.txt").write_text("mine")
    ended = command(*fit, "--memory", "prototypes", cwd=tmp_path)
    assert ended.code == 1
    assert "config.detector.memory 'aligned', now 'prototypes'" in ended.err
    assert "--fresh" in ended.err
    write_sample(tmp_path / "data/train/good/000", 50)
    ended = command(*fit, cwd=tmp_path)
    assert ended.code == 1
    assert "data" in ended.err
    before = contents(tmp_path / "detector")
    assert command(*fit, "--fresh", cwd=tmp_path).code == 0
    after = contents(tmp_path / "detector")
    assert before.keys() == after.keys()
    assert before["memory.safetensors"] != after["memory.safetensors"]
    assert after["notes.txt"] == b"mine"
