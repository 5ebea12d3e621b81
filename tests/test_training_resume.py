"""A training gives one result however it is split, and goes on after it was killed as if nothing had been."""

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_training import run, small_model, small_station, weights_of
from vsad.models import VALDM
from vsad.training import Station, TrainConfig, train
from vsad.training.checkpoints import differences
from vsad.training.log import cut

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
CONFIG = TrainConfig(steps=4, batch=2, checkpoint_every=2)


def start(*arguments, before=()):
    """Run tests/small_training.py; returns what it printed."""
    command = [sys.executable, *before, "-m", "tests.small_training", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def rows_of(folder):
    """The log without what time it took."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][-2:] == ["seconds", "samples_per_second"]
    return [row[:-2] for row in rows]


def test_two_processes_and_two_passes_give_the_losses_of_one(tmp_path):
    settings = ["steps=3", "batch=2", "adversarial=0.1"]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    start(tmp_path / "two", *settings, before=launcher)
    run(tmp_path / "one", settings)
    run(tmp_path / "passes", [*settings, "accumulation=2"])
    one, two, passes = (np.array(rows_of(tmp_path / name)[1:], float) for name in ("one", "two", "passes"))
    np.testing.assert_allclose(two, one, atol=2e-5, rtol=2e-4)
    np.testing.assert_allclose(passes, one, atol=2e-5, rtol=2e-4)
    assert len({tuple(row) for row in one[:, 1:3]}) == 3


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_bits(tmp_path, seed):
    settings = ["steps=8", "batch=2", "checkpoint_every=2", "ema=0.9", "adversarial=0.1", "keep=1"]
    run(tmp_path / "whole", settings)
    killed = int(start("--kill", tmp_path / "killed", seed, *settings))
    assert killed >= 1
    for name in ("trained.safetensors", "checkpoints/step-00000008/discriminator.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-00000008"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a training of five small samples, and the model that it made."""
    folder, model = tmp_path_factory.mktemp("done"), small_model()
    train(model, small_station(), CONFIG, folder=folder)
    return folder, model


def test_a_training_that_is_done_is_not_done_again(done):
    folder, model = done
    rows, again = rows_of(folder), small_model(seed=1)
    train(again, small_station(), replace(CONFIG, accumulation=2, checkpoint_every=0), folder=folder)
    for name, weight in weights_of(model).items():
        assert torch.equal(weights_of(again)[name], weight)
    assert rows_of(folder) == rows


def test_a_training_goes_on_in_more_passes_a_step(tmp_path):
    config, models = replace(CONFIG, steps=3, checkpoint_every=1, keep=3), [small_model(), small_model()]
    train(models[0], small_station(), config, folder=tmp_path)
    for step in (2, 3):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-0000000{step}")
    train(models[1], small_station(), replace(config, accumulation=2), folder=tmp_path)
    whole, resumed = map(weights_of, models)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=2e-5, rtol=1e-4)


def test_another_training_is_refused_by_what_differs(done):
    folder, _ = done
    station = small_station()
    other = Station(station.latents + 1, station.rig)
    with pytest.raises(ValueError, match=r"must be of this training, got train.lr 0.002, now 0.1; name another folder"):
        train(small_model(), station, replace(CONFIG, lr=0.1), folder=folder)
    with pytest.raises(ValueError, match=r"got model.heads 4, now 2; name"):
        train(small_model(heads=2), station, CONFIG, folder=folder)
    with pytest.raises(ValueError, match=r"got other stations.0.latents; name another folder, or delete this one"):
        train(small_model(), other, CONFIG, folder=folder)
    with pytest.raises(ValueError, match=r"got other stations.1; name another folder"):
        train(small_model(), [station, other], CONFIG, folder=folder)


def test_weights_of_another_model_are_refused(done, tmp_path, monkeypatch):
    folder, _ = done
    model = small_model()
    model.adapter.frms["up1"].gate.requires_grad_(False)
    with pytest.raises(ValueError, match=r"model.safetensors: must hold the weights of this model, got others; name"):
        train(model, small_station(), CONFIG, folder=folder)


def test_checkpoints_hold_what_is_trained_alone(done):
    folder, model = done
    file = folder / "checkpoints" / "step-00000004" / "model.safetensors"
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.vae.parameters())
    assert 0 < file.stat().st_size - 4 * trained < 30_000 + 4 * frozen // 10
    assert isinstance(model, VALDM)


def test_differences_name_the_fields():
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [1]}}) == []
    assert differences({"a": {"b": 1}, "d": 0}, {"a": {"b": 2}}) == ["a.b 1, now 2", "d 0, now None"]


def test_a_log_is_cut_back_to_a_step_and_to_whole_lines(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,diffusion,seconds\n1,0.5,1.5\n2,0.25,2.5\n3,0.1")
    assert cut(path, 2) == 2.5
    assert path.read_text() == "step,diffusion,seconds\n1,0.5,1.5\n2,0.25,2.5\n"
    assert cut(path, 1) == 1.5
    assert cut(path, 0) == 0
    assert not path.exists()
    assert cut(path, 5) == 0
