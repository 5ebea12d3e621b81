"""Several processes train one model: one of them does what is done once, and weights may lie in shards."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pretrained import save_pipeline
from tests.small_training import run, small_model, small_station
from tests.stations import make_station
from vsad.training import TrainConfig, check_alone, check_shared, check_trainable, train

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
WHOLE, SHARDS = ["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]  # as accelerate's launcher takes them
# What it tells the processes of shards.
LAUNCHED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
SETTINGS = [
    "steps=4", "batch=4", "accumulation=2", "checkpoint_every=2", "ema=0.9", "adversarial=0.1", "checkpointing=true",
]  # fmt: skip

# The command, which tells of every sample that it encodes and every station that it registers, in files of the process.
COUNTED = """
import os
from vsad import cli
from vsad.models import VALDM
from vsad.pipeline import steps

def told(owner, name):
    do = getattr(owner, name)
    def call(*arguments, **options):
        with open(os.path.join(os.environ["COUNTS"], f"{name}-{os.environ.get('RANK', 0)}"), "a") as file:
            file.write("x")
        return do(*arguments, **options)
    setattr(owner, name, call)

told(VALDM, "encode_raw")
told(steps, "register_station")
cli.main()
"""

# Trains in one folder after the other, and tells what part of the weights that it trains each process holds.
IN_SHARES = """
import sys
import torch
from tests.small_training import run
from vsad.training import loop

class Told(loop.Optimization):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        held, all = (sum(size(p) for p in self.trained.values()) for size in (held_of, torch.numel))
        print(f"holds {held / all:.2f}", file=sys.stderr)

def held_of(weight):
    return getattr(weight, "to_local", lambda: weight)().numel()

torch.set_num_threads(1)
loop.Optimization = Told
folders, settings = sys.argv[1].split(","), sys.argv[2:]
for folder in folders:
    run(folder, settings)
"""

# Trains what is new in a pretrained pipeline, or more of it, in shards of weights of which most are frozen.
TUNED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.small_training import small_station
from vsad.models import VALDM, sd
from vsad.training import TrainConfig, train

torch.set_num_threads(1)
for tune in ("new", "lora"):
    torch.manual_seed(0)
    config = replace(sd(), heads=4, tune=tune, conditioning="text", categories=("bolt",))
    model = VALDM.from_pretrained(sys.argv[1], config=config)
    train(model, small_station(), TrainConfig(steps=3, batch=2, checkpointing=True), folder=Path(sys.argv[2]) / tune)
"""


def launch(*arguments, how=WHOLE, fails=False, cwd=ROOT, **environment):
    """Run a program in two processes that train together, on the CPU; returns what they say."""
    launcher = ["accelerate.commands.launch", "--num_processes=2", "--main_process_port=0", *how]
    return start("-m", *launcher, *arguments, fails=fails, cwd=cwd, **environment)


def start(*arguments, fails=False, cwd=ROOT, **environment):
    """Run a program; returns what it says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, result.stderr[-3000:]
    return result.stderr


def numbers(folder):
    """The log without what time it took."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    return np.array([row[:-2] for row in rows[1:]], float)


def assert_alike(folder, other):
    """Weights and the state of the optimizers agree, and are as whole as those of one process."""
    names = ["model", "ema", "discriminator"]
    files = [Path("trained.safetensors"), *(f"checkpoints/step-00000004/{name}.safetensors" for name in names)]
    for file in files:
        expected, found = load_file(other / file), load_file(folder / file)
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=2e-5, rtol=1e-4)
    for name in ("optimizer.bin", "optimizer_1.bin"):
        expected, found = (torch.load(path / "checkpoints" / "step-00000004" / name) for path in (other, folder))
        assert expected["param_groups"] == found["param_groups"]
        torch.testing.assert_close(found["state"], expected["state"], atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trainings: of one process, in two shards, and in two shards from the first one's second step on."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder / "one", SETTINGS)
    half_way(folder / "one", folder / "resumed")
    program = folder / "shares.py"
    program.write_text(IN_SHARES)
    said = launch(program, f"{folder / 'shards'},{folder / 'resumed'}", *SETTINGS, how=SHARDS)
    assert re.findall("holds (.*)", said) == ["0.50"] * 4  # of two processes in two trainings
    return folder


def half_way(folder, copy):
    """A copy of a training that was killed after its second step."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "trained.safetensors").unlink()


def test_shards_give_what_one_process_gives(trained):
    np.testing.assert_allclose(numbers(trained / "shards"), numbers(trained / "one"), atol=2e-5, rtol=2e-4)
    assert_alike(trained / "shards", trained / "one")
    pictures = trained / "shards" / "pictures"
    assert sorted(path.name for path in pictures.iterdir()) == ["step-00000002.png", "step-00000004.png"]


def test_shards_go_on_from_one_process_and_one_process_from_shards(trained, tmp_path):
    half_way(trained / "shards", tmp_path / "joined")
    run(tmp_path / "joined", SETTINGS)
    for folder in (trained / "resumed", tmp_path / "joined"):
        np.testing.assert_allclose(numbers(folder), numbers(trained / "one"), atol=2e-5, rtol=2e-4)
        assert_alike(folder, trained / "one")


@pytest.mark.parametrize("how", [WHOLE, pytest.param(SHARDS, marks=pytest.mark.slow)], ids=["whole", "shards"])
def test_two_processes_compute_in_half_precision_what_one_does(tmp_path, how):
    settings = ["steps=3", "batch=2", "mixed_precision=bf16"]
    run(tmp_path / "one", settings)
    run(tmp_path / "exact", settings[:2])
    said = launch("-m", "tests.small_training", tmp_path / "two", *settings, how=how)
    one, exact, two = (numbers(tmp_path / name) for name in ("one", "exact", "two"))
    assert np.abs(two - one).max() < np.abs(one - exact).max()
    assert "UserWarning" not in said  # such as DDP's, of gradients whose strides are not their weights'


@pytest.mark.slow
def test_shards_of_a_pretrained_model_give_what_one_process_gives(tmp_path):
    pytest.importorskip("peft")
    pipeline, program = save_pipeline(tmp_path, "1.5"), tmp_path / "tuned.py"
    program.write_text(TUNED)
    start(program, pipeline, tmp_path / "one")
    launch(program, pipeline, tmp_path / "shards", how=SHARDS)
    for tune in ("new", "lora"):
        one, shards = (tmp_path / name / tune for name in ("one", "shards"))
        np.testing.assert_allclose(numbers(shards), numbers(one), atol=2e-5, rtol=2e-4)
        file = "checkpoints/step-00000003/model.safetensors"
        torch.testing.assert_close(load_file(shards / file), load_file(one / file), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_loss_in_shards_that_is_not_finite_is_told(tmp_path):
    said = launch("-m", "tests.small_training", tmp_path, "steps=3", "batch=2", "lr=1e30", fails=True, how=SHARDS)
    assert "FloatingPointError: train: losses and gradient must be finite, got diffusion" in said


@pytest.mark.parametrize(
    ("environment", "config", "model", "message"),
    [
        ({"FSDP_VERSION": "1"}, {}, {}, "FSDP must be of version 2, got 1; add --fsdp_version 2 to"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, {}, {}, "must find the blocks of the model by itself, got a"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, {}, "own activation checkpointing must be off, got on; add"),
        ({}, {"mixed_precision": "fp16"}, {}, "mixed_precision must be 'no' or 'bf16' with FSDP, got 'fp16'"),
        ({}, {}, {"homographies": "refined"}, r"no weights that are single numbers, .* got adapter\.homography_net"),
    ],
)
def test_what_shards_cannot_do_is_refused_before_the_work(monkeypatch, environment, config, model, message):
    for name, value in {**LAUNCHED, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_trainable(small_model(**model), TrainConfig(**config))


def test_a_process_alone_has_no_shards(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    model = small_model()
    train(model, small_station(), TrainConfig(steps=1))
    assert {type(parameter) for parameter in model.parameters()} == {torch.nn.Parameter}


def test_one_of_two_processes_registers_and_encodes(tmp_path):
    station = make_station(tmp_path / "station")
    program = tmp_path / "counted.py"
    program.write_text(COUNTED)
    arguments = [program, "train", "data", "--steps", 3, "--registration", "on", "--set", "train.batch=2"]
    counts = {}
    for count, started in ((1, start), (2, launch)):
        folder = tmp_path / f"counts-{count}"
        folder.mkdir()
        started(*arguments, "--out", f"model-{count}", cwd=station, COUNTS=str(folder))
        counts[count] = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert counts[2] == counts[1]
    assert {name: times for name, times in counts[1].items() if name.startswith("register")} == {
        "register_station-0": 1
    }
    one, two = (station / f"model-{count}" for count in (1, 2))
    np.testing.assert_allclose(numbers(two / "training"), numbers(one / "training"), atol=2e-5, rtol=2e-4)
    files = [{path.relative_to(model).as_posix() for path in model.rglob("*")} for model in (one, two)]
    assert files[1] - files[0] == {"training/checkpoints/step-00000003/random_states_1.pkl"}
    assert files[0] <= files[1]


def test_a_folder_that_this_process_does_not_share_is_told(tmp_path):
    (tmp_path / "there").touch()
    check_shared(tmp_path / "there")
    with pytest.raises(
        FileNotFoundError, match=r"index.json is missing on .* must share the folder; name one on a disk"
    ):
        check_shared(tmp_path / "index.json")


def test_what_one_process_does_is_refused_to_several(monkeypatch):
    check_alone("fit")
    monkeypatch.setattr("vsad.training.processes.processes", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(
        ValueError, match="fit: must be started in one process, got 2; only `vsad train` shares its wor"
    ):
        check_alone("fit")


def test_a_batch_that_two_processes_cannot_share_is_refused_before_the_work(tmp_path):
    station = make_station(tmp_path)
    said = launch("-m", "vsad.cli", "train", "data", "--out", "refused", fails=True, cwd=station)
    assert "train: batch must be a multiple of processes x accumulation, 2 x 1, got 1; change batch or" in said
    assert not (station / "refused").exists()
