"""A training goes on with what may differ, and what keeps it from going on is said in words."""

import shutil

import pytest

from tests.stations import command, small_rig, write_data
from vsad.pipeline import RunConfig
from vsad.training import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")


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
