"""An ablation measures every row of every station once, goes on where it stopped, and says what is wrong at once."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.recorder import Recorder
from tests.test_cli import vsad
from vsad.data.synth import hard_station
from vsad.metrics import paired_interval, t_quantile
from vsad.pipeline import RunConfig, ablate, ablation, ablation_rows, ablation_tables
from vsad.pipeline.ablation_rows import Rows
from vsad.terminal import show_table
from vsad.training import TrainConfig

CONFIG = RunConfig(train=TrainConfig(steps=2))
OLD = [
    "VSAD", "without registration", "without agreement", "latents alone", "prototypes", "without MVAM", "without FRM",
    "without MVAM and FRM", "Gaussian derivatives, plain bank",
]  # fmt: skip
TRAINED = {"VSAD", "without registration", "without MVAM", "without FRM", "without MVAM and FRM"}


@pytest.fixture(autouse=True)
def small_stations(monkeypatch):
    """Hard stations of few small images."""

    def small(name, seed, *, purpose):
        return replace(hard_station(name, seed, purpose=purpose), size=96, train=4, test_good=1, test_defect=2)

    monkeypatch.setattr(ablation, "hard_station", small)


@pytest.fixture
def trainings(monkeypatch):
    """The configurations of the models that are trained."""
    done = []

    def train(model, *arguments):
        done.append(model.config)
        real(model, *arguments)

    real = ablation_rows.train
    monkeypatch.setattr(ablation_rows, "train", train)
    return done


def row(sample, false_alarms=1):
    return {
        "sample": sample, "view": 0.5, "pixel": 1.0, "false_alarms": false_alarms, "good": 30,
        "defects_found": false_alarms, "defects": 30, "seconds": 10.0,
    }  # fmt: skip


def test_all_rows_are_measured_once_and_a_second_call_goes_on(tmp_path, trainings):
    progress = Recorder()
    config = replace(CONFIG, registration="on")
    first = ablate(["in-place"], [1], "development", tmp_path, config, progress, rows=OLD, commit="abc")
    assert progress.stages == [("in-place, seed 1", len(OLD), len(OLD))]
    assert len(trainings) == len(TRAINED)
    (result,) = first["results"]
    assert (result["photograph"], result["commit"]) == ("brick", "abc")
    assert list(result["rows"]) == OLD
    for name, row in result["rows"].items():
        assert all(0 <= row[level] <= 1 for level in ("sample", "view", "pixel"))
        assert (row["good"], row["defects"]) == (1, 2)
        assert math.isfinite(row["seconds"])
        assert (row["false_alarms"] is None) == (row["defects_found"] is None) == name.startswith("Gaussian")
    assert result["rows"]["VSAD"] != result["rows"]["without registration"]

    stored, table = (tmp_path / "ablation.json").read_bytes(), (tmp_path / "ablation.md").read_bytes()
    assert json.loads(stored) == first
    assert ablate(["in-place"], [1], "development", tmp_path, config, rows=OLD) == first
    assert (tmp_path / "ablation.json").read_bytes() == stored
    assert (tmp_path / "ablation.md").read_bytes() == table
    assert len(trainings) == len(TRAINED)

    with pytest.raises(ValueError, match=r"options must be .* got options.train.steps 2, now 3; .* another out"):
        ablate(["in-place"], [1], "development", tmp_path, replace(config, train=TrainConfig(steps=3)))
    assert (tmp_path / "ablation.json").read_bytes() == stored


BOTH = ("up0", "up1")


def test_without_registration_that_row_is_the_full_one(tmp_path, trainings, monkeypatch):
    monkeypatch.setattr(ablation_rows, "fit_detector", lambda *_, **__: SimpleNamespace(threshold=1.0))
    monkeypatch.setattr(ablation_rows, "deviations_of", lambda *_: ())
    monkeypatch.setattr(Rows, "_judged", lambda *_: row(0.5, len(trainings)))
    monkeypatch.setattr(ablation_rows, "detect_baseline", lambda *_: ())
    config = replace(CONFIG, registration="off")
    content = ablate(["glare"], [0], "development", tmp_path, config, rows=OLD)
    rows = content["results"][0]["rows"]
    assert rows["without registration"] == rows["VSAD"]
    assert [rows[name]["false_alarms"] for name in ("VSAD", "prototypes", "without FRM")] == [1, 1, 3]
    assert [(c.align_stages, c.refine) for c in trainings] == [(BOTH, True), ((), True), (BOTH, False), ((), False)]


def test_a_row_that_was_measured_is_not_lost_when_a_later_one_is_stopped(tmp_path, monkeypatch):
    def stopped(self, change, models):
        if change.model:
            raise KeyboardInterrupt
        done.append(change)
        return row(0.5)

    done = []
    monkeypatch.setattr(Rows, "_row", stopped)
    monkeypatch.setattr(ablation, "synthesize", lambda folder, config: folder)
    monkeypatch.setattr(Rows, "of", lambda root, config: Rows(*[None] * 5, "off: as asked", None, config))
    names = ["without agreement", "window 1"]
    with pytest.raises(KeyboardInterrupt):
        ablate(["glare"], [0], "development", tmp_path, CONFIG, rows=names)
    stored = json.loads((tmp_path / "ablation.json").read_text())["results"][0]
    assert list(stored["rows"]) == ["VSAD", "without agreement"]
    monkeypatch.setattr(Rows, "_row", lambda self, change, models: row(0.6))
    content = ablate(["glare"], [0], "development", tmp_path, CONFIG, rows=names)
    assert {name: r["sample"] for name, r in content["results"][0]["rows"].items()} == {
        "VSAD": 0.5, "without agreement": 0.5, "window 1": 0.6,
    }  # fmt: skip
    assert len(done) == 2


def result(seed, **rows):
    return {"station": "glare", "seed": seed, "photograph": "brick", "rows": rows}


def test_tables_hold_means_and_intervals_of_paired_differences():
    pairs = ((0.9, 0.8), (0.7, 0.5), (0.8, 0.5))
    results = [result(seed, VSAD=row(full), other=row(other, None)) for seed, (full, other) in enumerate(pairs)]
    results.append({**results[0], "station": "dust"})
    (title, rows), (alone, _) = ablation_tables({"results": results})
    assert title == "glare (n = 3: 0 brick, 1 brick, 2 brick)"
    assert alone == "dust (n = 1: 0 brick)"
    assert rows[0] == {
        "row": "VSAD", "sample": "0.800", "view": "0.500", "pixel": "1.000",
        "good called DEFECT": "3 of 90", "defects found": "3 of 90", "time (s)": "10",
    }  # fmt: skip
    # The differences are -0.1, -0.2, -0.3: mean -0.2, deviation 0.1, t 2.920, so 0.1686 to either side.
    assert rows[1]["sample"] == "0.600 (-0.369 to -0.031)"
    assert rows[1]["view"] == "0.500 (+0.000 to +0.000)"
    assert rows[1]["good called DEFECT"] == rows[1]["defects found"] == "-"


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"),
    [(0.9, 1, 6.3138), (0.9, 2, 2.9200), (0.9, 3, 2.3534), (0.9, 4, 2.1318), (0.95, 9, 2.2622), (0.99, 30, 2.7500)],
)
def test_t_quantiles_are_those_of_the_tables(confidence, freedom, t):
    assert t_quantile(confidence, freedom) == pytest.approx(t, abs=5e-5)


def test_the_interval_of_paired_differences():
    # The differences are 1 and 3: mean 2, deviation sqrt(2), so t s / sqrt(n) = 6.3138.
    assert paired_interval([2.0, 5.0], [1.0, 2.0]) == pytest.approx((2 - 6.31375, 2 + 6.31375), abs=1e-4)
    assert paired_interval([0.9], [0.8]) is None
    assert paired_interval([0.5, 0.5], [0.5, 0.5]) == (0, 0)


def test_the_command_shows_what_it_measured_and_goes_on(tmp_path, monkeypatch):
    def measure(station, seed, *_):
        if (station, seed) in interrupted:
            raise KeyboardInterrupt
        done.append((station, seed))
        for name, value in (("VSAD", 0.9), ("prototypes", 0.8)):
            yield {"photograph": "brick"}, name, row(value)

    done, interrupted = [], {("dust", 1)}
    monkeypatch.setattr(ablation, "_measure", measure)
    arguments = (
        "ablate",
        "out",
        "--rows",
        "prototypes",
        "--seeds",
        0,
        1,
        "--purpose",
        "development",
        "--stations",
        "glare",
        "dust",
    )
    vsad(*arguments, cwd=tmp_path, fails=True)
    assert done == [("glare", 0), ("glare", 1), ("dust", 0)]
    written = (tmp_path / "out" / "ablation.md").read_text()
    assert "## glare (n = 2: 0 brick, 1 brick)" in written
    assert "| prototypes | 0.800 (-0.100 to -0.100) | 0.500 (+0.000 to +0.000) |" in written

    interrupted.clear()
    out = vsad(*arguments, cwd=tmp_path)
    assert done == [("glare", 0), ("glare", 1), ("dust", 0), ("dust", 1)]
    assert out.endswith("ablation.md")
    assert out.count("prototypes") == 2
    assert vsad(*arguments, cwd=tmp_path) == out
    assert vsad(*arguments[:4], "--purpose=development", "--seeds=0", "--stations=dust", cwd=tmp_path) == out
    assert len(done) == 4
    machine = json.loads((tmp_path / "out" / "ablation.json").read_text())["results"][0]["machine"]
    assert machine["threads"] >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stations", "glare", "fog"], "stations must be some of in-place, .*, got 'fog'; choose"),
        (["--rows", "without luck"], "rows must be some of VSAD; .* time steps 0, 50; .*; got 'without luck'; choose"),
        (["--seeds", "1000", "5"], "seeds must be from 1000 to 1099 for the purpose report, got 5; choose"),
        (["--purpose", "fun"], "purpose must be one of development, report, got 'fun'; choose"),
        (["--preset", "huge"], r"preset must be one of \['tiny', .*\], got 'huge'; choose"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--set", "size=48", "--rows", "refined homographies"], "size: pictures must be more than .*, got 48 x 48"),
    ],
)
def test_a_mistake_is_said_before_the_work_starts(tmp_path, arguments, message):
    error = vsad("ablate", "out", *arguments, cwd=tmp_path, fails=True)
    assert re.search(f"error: .*{message}", error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_must_not_be_a_file(tmp_path, out):
    (tmp_path / "file").write_text("")
    error = vsad("ablate", out, cwd=tmp_path, fails=True)
    assert "out must be a folder" in error
    assert "name another folder" in error


def test_narrow_terminals_cut_no_word(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    results = [result(seed, VSAD=row(0.9), prototypes=row(0.8 + seed / 9)) for seed in (0, 1)]
    ((_, rows),) = ablation_tables({"results": results})
    show_table(rows)
    shown = capsys.readouterr().out
    words = {word for cells in rows for name, cell in cells.items() for word in (*name.split(), *cell.split())}
    assert words <= set(shown.split())
    assert "…" not in shown
