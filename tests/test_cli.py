"""The vsad command, as a user runs it: every step on a small station, and one clear line for every mistake."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from rich.console import Console

from tests.stations import vsad
from vsad import cli, terminal
from vsad.geometry import Rig


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    """A small synthetic station, calibrated, trained and fitted."""
    folder = tmp_path_factory.mktemp("station")
    vsad("synth", "data", "--train", 4, "--good", 1, "--defects", 5, "--size", 128, cwd=folder)
    vsad("calibrate", "data", cwd=folder)
    vsad("train", "data", "--steps", 2, cwd=folder)
    vsad("fit", "data", cwd=folder)
    return folder


def test_every_step_leaves_its_result(station):
    assert Rig.load(station / "rig.json").views == ("C1", "C2", "C3", "C4", "C5")
    out = vsad("detect", "data", cwd=station)
    assert out.endswith("detections")
    detections = json.loads((station / "detections" / "detections.json").read_text())
    assert len(detections["samples"]) == 6
    for row in detections["samples"]:
        assert (row["verdict"] == "defect") == (row["score"] >= detections["threshold"])
        assert row["views"].keys() == {"C1", "C2", "C3", "C4", "C5"}
        sample = json.loads((station / "detections" / row["file"]).read_text())
        assert (sample["id"], sample["verdict"], sample["score"]) == (row["id"], row["verdict"], row["score"])
        for view in sample["views"]:
            assert (station / "detections" / view["map"]).is_file()
            assert (station / "detections" / view["overlay"]).is_file()
    vsad("eval", "data", cwd=station)
    metrics = json.loads((station / "metrics.json").read_text())
    result = metrics["categories"]["data"]
    assert set(result["pixel"]) == {"auroc", "ap", "f1_max", "aupro"}
    assert set(result["view"]) == set(result["sample"]) == {"auroc", "ap", "f1_max"}
    assert result.pop("verdicts")["defects"] == 5
    assert metrics["mean"] == result
    assert "missing_part" in (station / "report.html").read_text(encoding="utf-8")


def test_the_readmes_lines_of_python_run_after_the_commands(station, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").partition("From Python:")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(station)
    code = code.replace('"station"', '"data"').replace("size=256", "size=128")
    names = {}
    exec(code, names)
    assert names["found"].maps.shape == (5, 128, 128)
    assert isinstance(names["found"].is_defect(names["detector"].threshold), bool)
    for default in (torch.float64, torch.bfloat16):
        others = {}
        torch.set_default_dtype(default)
        try:
            exec(code, others)
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(others["found"].maps, names["found"].maps)


def test_run_does_all_steps_and_the_same_seed_gives_the_same_metrics(station):
    for out in ("one", "two"):
        vsad("run", "data", "--out", out, "--steps", 2, "--ablations", "--seed", 3, cwd=station)
    first, second = ((station / out / "metrics.json").read_text() for out in ("one", "two"))
    assert first == second
    assert {p.name for p in (station / "one").iterdir()} == {
        "rig.json", "detector", "detections", "metrics.json", "report.html", "run.json", "run.jsonl",
    }  # fmt: skip
    report = (station / "one" / "report.html").read_text(encoding="utf-8")
    for row in ("without MVAM and FRM", "without MVAM, FRM, agreement", "Gaussian derivatives, plain bank"):
        assert row in report


def test_every_bar_ends_finished_and_an_empty_stage_has_none():
    with terminal.Bars() as bars:
        assert list(bars.track([], "nothing to do")) == []
        assert list(bars.track(iter("ab"), "fewer than expected", total=5)) == ["a", "b"]
        with bars.stage("in one go", 1):
            pass
        with bars.stage("train", 2) as stage:
            stage.advance("loss 0.5")
            stage.advance("loss 0.25")
    shown = [(task.description, task.completed, task.total, task.fields["text"]) for task in bars.display.tasks]
    assert shown == [("fewer than expected", 2, 2, ""), ("in one go", 1, 1, ""), ("train", 2, 2, "loss 0.25")]
    assert bars.display.finished


def test_without_a_terminal_every_stage_is_a_line_and_a_long_one_more(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(terminal.console, "_file", written)
    monkeypatch.setattr(terminal, "_PAUSE_S", 0)
    with terminal.Bars() as bars, bars.stage("train", 2) as stage:
        stage.advance("loss 0.5")
        stage.advance("loss 0.25")
    assert written.getvalue().splitlines() == [
        "train: 1 of 2, 0 s, loss 0.5", "train: 2 of 2, 0 s, loss 0.25",
    ]  # fmt: skip
    monkeypatch.setattr(terminal, "_PAUSE_S", 60)
    with terminal.Bars() as bars:
        assert list(bars.track("abc", "encode")) == ["a", "b", "c"]
    assert written.getvalue().splitlines()[2:] == ["encode: 3 of 3, 0 s"]


def test_the_running_stage_is_seen_where_there_are_more_than_rows(monkeypatch):
    def numbers(display):
        shown = io.StringIO()
        Console(file=shown, width=80).print(display.get_renderable())
        return re.findall(r"stage (\d)", shown.getvalue())

    monkeypatch.setattr(
        terminal, "console", terminal.StderrConsole(file=io.StringIO(), force_terminal=True, width=80, height=5)
    )
    with terminal.Bars() as bars:
        for number in range(9):
            with bars.stage(f"stage {number}", 1):
                shown = numbers(bars.display)
        assert shown == ["5", "6", "7", "8"]
    assert len(numbers(bars.display)) == 9


def test_a_stage_that_fails_does_not_look_finished():
    with terminal.Bars() as bars, contextlib.suppress(ValueError), bars.stage("train", 2):
        raise ValueError
    assert not bars.display.finished


def test_calibration_without_weak_pairs_leaves_no_bar_spinning(station, monkeypatch):
    class Kept(terminal.Bars):
        def __init__(self):
            super().__init__()
            displays.append(self.display)

    displays = []
    monkeypatch.setattr(cli.calibration, "Bars", Kept)
    vsad("calibrate", "data", "--out", "new/again.json", cwd=station)
    assert (station / "new" / "again.json").read_bytes() == (station / "rig.json").read_bytes()
    assert displays[0].finished
    assert all(task.total for task in displays[0].tasks)


def test_every_command_reads_one_file_and_options_count_more(station, tmp_path):
    file = tmp_path / "station.yaml"
    vsad("config", "--out", file, "--set", "train.steps=3", "--set", "model.feature_stages=[up1]", cwd=station)
    text = file.read_text(encoding="utf-8")
    assert "# preset of the model: tiny, small, base or sd.\npreset: tiny\n" in text
    assert "#   feature_stages: [up1]" in text
    shown = vsad("config", "--config", file, "--set", "train.lr=1e-3", cwd=station)
    assert "steps: 3" in shown
    assert "lr: 0.001" in shown
    vsad("train", "data", "--out", tmp_path / "model", "--config", file, "--steps", 1, cwd=station)
    stored = json.loads((tmp_path / "model" / "adapter" / "config.json").read_text())
    assert stored["valdm"]["feature_stages"] == ["up1"]
    help_text = vsad("train", "--help", cwd=station)
    assert "--config" in help_text


def test_info_and_help(tmp_path):
    assert "homography_align cpu yes" in vsad("info", cwd=tmp_path)
    commands = typer.main.get_command(cli.app).commands
    assert {"calibrate", "train", "fit", "detect", "watch", "eval", "run", "info"} <= set(commands)
    for command in commands:
        assert "Usage:" in vsad(command, "--help", cwd=tmp_path)


def test_a_process_of_its_own_ends_with_one_line_and_status_1(tmp_path):
    command = [sys.executable, "-m", "vsad.cli", "calibrate", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def broken(station, tmp_path, change):
    """A copy of the station with something wrong in it."""
    folder = tmp_path / "broken"
    shutil.copytree(station, folder, ignore=shutil.ignore_patterns("one", "two"))
    change(folder)
    return folder


def _truncate(path):
    path.write_bytes(path.read_bytes()[:2000])


def _rename(path, name):
    path.rename(path.with_name(name))


def _edit_rig(folder, homography):
    content = json.loads((folder / "rig.json").read_text())
    content["pairs"][0]["homography"] = homography
    (folder / "rig.json").write_text(json.dumps(content))


WEIGHTS = "diffusion_pytorch_model.safetensors"
MISTAKES = {
    "no such data": (["calibrate", "nowhere"], lambda f: None, "nowhere"),
    "no normal images": (["calibrate", "data"], lambda f: shutil.rmtree(f / "data/train/good"), "train/good"),
    "missing view": (["train", "data"], lambda f: (f / "data/train/good/0001/C3.png").unlink(), "C3"),
    "truncated image": (
        ["train", "data", "--fresh"],
        lambda f: _truncate(f / "data/train/good/0001/C3.png"),
        "C3.png",
    ),
    "defects in train": (["train", "data"], lambda f: _rename(f / "data/train/good", "dent"), "train"),
    "singular rig": (["train", "data"], lambda f: _edit_rig(f, [[1, 0, 0], [1, 0, 0], [0, 0, 1]]), "rig.json"),
    "NaN in rig": (["train", "data"], lambda f: _edit_rig(f, [[float("nan"), 0, 0], [0, 1, 0], [0, 0, 1]]), "rig.json"),
    "no rig": (["train", "data"], lambda f: (f / "rig.json").unlink(), "rig.json"),
    "broken model": (
        ["fit", "data"],
        lambda f: _truncate(f / "model/unet" / WEIGHTS),
        "weights are broken",
    ),
    "no model": (["fit", "data"], lambda f: shutil.rmtree(f / "model"), "model"),
    "broken detector": (["detect", "data"], lambda f: (f / "detector/detector.json").write_text("{"), "detector.json"),
    "no detections": (["eval", "data", "--detections", "none"], lambda f: None, "none"),
    "unknown preset": (["train", "data", "--preset", "huge"], lambda f: None, "preset must be one of ['tiny', 'small'"),
    "diverged": (["train", "data", "--set", "train.lr=1e9", "--out", "diverged"], lambda f: None, "must be finite"),
    "unknown product": (
        ["train", "data", "--set", "model.conditioning=class", "--set", "model.categories=[other]"],
        lambda f: None,
        "category must be one of ['other'], got 'data'",
    ),
    "no such device": (
        ["detect", "data", "--device", "cuda:77"],
        lambda f: None,
        "device must be usable here, got 'cuda:77'",
    ),
    "unknown field": (["train", "data", "--set", "train.stepz=3"], lambda f: None, "there is no field train.stepz"),
    "unknown file": (["train", "data", "--config", "none.yaml"], lambda f: None, "none.yaml is missing"),
    "used folder": (["synth", "data"], lambda f: None, "new or empty folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_line(station, tmp_path, mistake):
    arguments, change, named = MISTAKES[mistake]
    message = vsad(*arguments, cwd=broken(station, tmp_path, change), fails=True)
    assert "error: " in message
    assert named in message.split("error: ")[1]
