"""A training goes on with what may differ, and what keeps it from going on is said in words."""

import csv
import shutil
from dataclasses import replace

import pytest
import torch

from tests.small_training import small_model, small_station, weights_of
from tests.stations import command, small_rig, write_data
from vsad.pipeline import RunConfig
from vsad.training import Station, TrainConfig, VAEConfig, log, train_vae
from vsad.training import train as train_model

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = TrainConfig(steps=2, checkpoint_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("station")
    write_data(folder / "data", train=4)
    small_rig().save(folder / "rig.json")
    return folder


def train(folder, *changes):
    """Train a small station by the command."""
    options = [option for change in changes for option in ("--set", f"train.{change}")]
    return command("train", "data", "--steps", 2, "--registration", "off", *options, cwd=folder)


def test_a_training_that_was_killed_goes_on_with_less_memory(folder):
    assert train(folder, "checkpoint_every=1").code == 0
    training = folder / "model" / "training"
    first = (training / "log.csv").read_text().splitlines()[:2]
    shutil.rmtree(training / "checkpoints" / "step-00000002")
    ended = train(folder, "checkpoint_every=1", "checkpointing=true", "keep=1")
    assert ended.code == 0, ended.err
    assert (training / "log.csv").read_text().splitlines()[:2] == first
    assert [path.name for path in (training / "checkpoints").iterdir()] == ["step-00000002"]
    ended = train(folder, "lr=0.1")
    assert ended.code == 1
    assert "got config.train.lr 0.002, now 0.1; name another --out" in " ".join(ended.err.split())


def test_a_run_is_told_apart_by_what_it_finds():
    free = TrainConfig(
        batch=2, accumulation=2, checkpointing=True, workers=1, keep=3, checkpoint_every=5, tensorboard=True
    )
    assert RunConfig(train=free, device="cpu").facts() == RunConfig(train=TrainConfig(batch=2)).facts()
    assert RunConfig().facts() != RunConfig(train=TrainConfig(batch=2)).facts()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a training of two steps, of which the second is to be done again, and the model that it made."""
    folder, model = tmp_path_factory.mktemp("done"), small_model()
    train_model(model, small_station(), CONFIG, folder=folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    return folder, model


def goes_on(done, folder):
    """Copy the folder, to spoil; returns what goes on with the training there."""
    shutil.copytree(done, folder, dirs_exist_ok=True)
    return lambda: train_model(small_model(), small_station(), CONFIG, folder=folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"step,total,seconds\n1,0.5,1\nx,0.5,2\n",
            "line 3 must hold step and seconds .*, got 'x,0.5,2'; delete it",
        ),
        (b"step,total,seconds\n1,0.5\n", "line 2 must hold step and seconds .*, got '1,0.5'; delete it"),
        (b"step,total\n1,0.5\n", "line 2 must hold step and seconds of a training's log"),
        (b"step,total,seconds\n1,0.5,soon\n", "line 2 must hold step and seconds of a training's log"),
        (b"step,\xff\xfe\n1,0.5\n", "must be UTF-8 text, got .* save it as UTF-8, or delete it to go on without"),
    ],
)
def test_a_broken_log_is_named_with_what_to_do(done, tmp_path, content, message):
    resume = goes_on(done[0], tmp_path)
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"log.csv: {message}"):
        resume()
    (tmp_path / "log.csv").unlink()
    resume()
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2"]


def test_a_log_keeps_the_ends_of_its_lines(tmp_path):
    content = b"step,seconds\r\n1,0.5\r\n2,0.75\r\n"
    (tmp_path / "log.csv").write_bytes(content)
    assert log.cut(tmp_path / "log.csv", 2) == 0.75
    assert (tmp_path / "log.csv").read_bytes() == content


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin"])
def test_a_file_that_a_checkpoint_lacks_is_named(done, tmp_path, name):
    resume = goes_on(done[0], tmp_path)
    (tmp_path / "checkpoints" / "step-00000001" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"step-00000001: must be a whole checkpoint, got no {name}; delete"):
        resume()


def test_a_folder_that_is_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"taken, which is a file and no folder; name another place"):
        train_model(small_model(), small_station(), CONFIG, folder=tmp_path / "taken")


def test_a_training_inside_no_grad_is_one(done):
    model = small_model()
    with torch.no_grad():
        train_model(model, small_station(), replace(CONFIG, checkpoint_every=0))
    for name, weight in weights_of(done[1]).items():
        assert torch.equal(weights_of(model)[name], weight)
    pictures = torch.rand(2, 3, 3, 32, 32)
    before = model.vae.decoder.conv_out.weight.clone()
    with torch.no_grad():
        train_vae(model, pictures, VAEConfig(steps=1, batch=1, crop=32))
    assert not torch.equal(model.vae.decoder.conv_out.weight, before)


def test_inference_mode_and_its_models_are_refused():
    message = r"must be made and trained outside of torch.inference_mode\(\), got it inside; leave it"
    config, model = replace(CONFIG, checkpoint_every=0), small_model()
    with torch.inference_mode():
        with pytest.raises(ValueError, match=f"train: the model {message}"):
            train_model(model, small_station(), config)
        with pytest.raises(ValueError, match=f"train_vae: the model {message}"):
            train_vae(model, torch.rand(1, 3, 3, 32, 32), VAEConfig(steps=1))
        made = small_model()
    with pytest.raises(ValueError, match=message):
        train_model(made, small_station(), config)


def test_stations_of_other_kinds_are_refused_by_name():
    latents, rig, _ = small_station()
    with pytest.raises(TypeError, match=r"stations\[0\].latents must be a tensor, or samples on disk, got list; stack"):
        train_model(small_model(), Station(list(latents), rig), CONFIG, folder="never")
    with pytest.raises(TypeError, match=r"stations\[1\].rig must be a vsad.geometry.Rig, got NoneType; calibrate or"):
        train_model(small_model(), [small_station(), Station(latents, None)], CONFIG, folder="never")
