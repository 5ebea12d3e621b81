"""Latents on disk: written whole or not at all, read one by one, and trained on where they do not fit into memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.small_training import small_model, small_rig, small_station, weights_of
from vsad.training import LatentShards, Station, TrainConfig, train, write_latents

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]

# Trains on what does not fit: after a first training, which takes what every one does, the process may map little more.
LARGE = """
import resource, sys, torch
from pathlib import Path
from tests.small_training import small_model, small_rig
from vsad.training import LatentShards, Station, TrainConfig, train

def kib(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name))

torch.set_num_threads(1)
station = Station(LatentShards(sys.argv[1]), small_rig())
train(small_model(), station, TrainConfig(steps=2))
before = kib("VmHWM")
limit = 1024 * kib("VmPeak") + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
train(small_model(), station, TrainConfig(steps=8))
seen = sum(float(sample.sum()) for sample in station.latents)
print(1024 * (kib("VmHWM") - before))
"""


def test_what_is_written_is_read(tmp_path):
    latents = torch.randn(7, 2, 3, 4, 5)
    shards = write_latents(tmp_path / "float32", latents, 3)
    assert (len(shards), shards.shape) == (7, latents.shape)
    assert torch.equal(torch.stack(list(shards)), latents)
    assert torch.equal(shards[-1], latents[6])
    assert sorted(path.name for path in shards.folder.iterdir()) == [
        "index.json", "shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors",
    ]  # fmt: skip
    half = write_latents(tmp_path / "float16", (sample for sample in latents), 3, dtype=torch.float16)
    assert half[4].dtype == torch.float32
    assert torch.equal(half[4], latents[4].half().float())
    assert torch.equal(shards[np.int64(4)], latents[4])
    with pytest.raises(IndexError, match="index must be from 0 to 6, got 7"):
        shards[7]
    with pytest.raises(TypeError, match="index must be an integer, got slice"):
        shards[1:3]


def test_a_training_sees_no_difference(tmp_path):
    station = small_station()
    shards = write_latents(tmp_path / "shards", station.latents, 2)
    models = [small_model(), small_model()]
    train(models[0], station, TrainConfig(steps=2, batch=2))
    train(models[1], Station(shards, station.rig), TrainConfig(steps=2, batch=2))
    assert all(torch.equal(weights_of(models[1])[name], weight) for name, weight in weights_of(models[0]).items())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and address space limits")
def test_a_set_larger_than_the_address_space_trains(tmp_path):
    samples, shape, limit = 3000, (3, 4, 32, 32), 48 << 20
    size = 4 * samples * torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(0)
    write_latents(tmp_path / "large", (torch.randn(shape, generator=generator) for _ in range(samples)), 100)
    assert size > 2.5 * limit
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large"), str(limit)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert int(result.stdout) < size / 4


def test_what_was_interrupted_is_not_there(tmp_path):
    def samples():
        yield from torch.zeros(3, 2, 3, 4, 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(tmp_path / "shards", samples(), 1)
    assert not (tmp_path / "shards").exists()
    assert len(write_latents(tmp_path / "shards", torch.zeros(3, 2, 3, 4, 5), 1)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    ("latents", "kind", "message"),
    [
        ([], ValueError, "at least one sample, got none"),
        (
            [torch.zeros(2, 3, 4, 5), torch.zeros(1, 3, 4, 5)],
            ValueError,
            r"of one shape, .*\[2, 3, 4, 5\].*got .*\[1, 3",
        ),
        ([torch.full((2, 3, 4, 5), 1e6)], ValueError, "must be finite as torch.float16, got NaN or infinity"),
    ],
)
def test_what_cannot_be_latents_is_refused(tmp_path, latents, kind, message):
    with pytest.raises(kind, match=message):
        write_latents(tmp_path / "shards", latents, dtype=torch.float16)
    assert not (tmp_path / "shards").exists()


def test_a_folder_that_holds_something_or_lacks_something_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        write_latents(tmp_path, torch.zeros(1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="dtype must be one of"):
        write_latents(tmp_path / "a", torch.zeros(1, 2, 3, 4, 5), dtype=torch.float64)
    with pytest.raises(FileNotFoundError, match=r"index.json is missing: write the folder anew"):
        LatentShards(tmp_path / "nowhere")
    shards = write_latents(tmp_path / "shards", torch.zeros(2, 2, 3, 4, 5), 1)
    (shards.folder / "shard-00001.safetensors").write_text("broken")
    with pytest.raises(ValueError, match=r"shard-00001.safetensors: must be a safetensors file with 'latents'"):
        LatentShards(shards.folder)
    (shards.folder / "shard-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.safetensors is missing"):
        LatentShards(shards.folder)
    (shards.folder / "index.json").write_text(json.dumps({"shape": [2]}))
    with pytest.raises(ValueError, match=r"must hold shape, shard_samples and shards, got KeyError"):
        LatentShards(shards.folder)
    assert small_rig().views == ("a", "b", "c")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shard_samples", 0, "shard_samples one, got .* and 0; write the folder anew"),
        ("shard_samples", 2.0, "shard_samples one, got .* and 2.0"),
        ("shard_samples", 3, "must name 2 files in its folder, for 5 samples of 3 in each, got 3, shard-00000"),
        ("shape", [5, 2, 3, 4], "shape must be 5 positive integers"),
        ("shape", [4, 2, 3, 4, 5], "must name 2 files in its folder, for 4 samples of 2"),
        ("shape", [10**15, 2, 3, 4, 5], "must name 500000000000000 files"),
        ("shards", {"../a": "", "b": "", "c": ""}, "must name 3 files in its folder, .* got 3, ../a, b, c"),
        (
            "shape",
            [5, 2, 3, 5, 4],
            r"shard-00000.safetensors: must hold \[2, 2, 3, 5, 4\] numbers, .* got \[2, 2, 3, 4",
        ),
    ],
)
def test_an_index_that_tells_of_other_files_is_refused(tmp_path, field, value, message):
    shards = write_latents(tmp_path / "shards", torch.zeros(5, 2, 3, 4, 5), 2)
    file = shards.folder / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ValueError, match=message):
        LatentShards(shards.folder)


def test_a_shard_with_other_numbers_is_refused_when_it_is_read(tmp_path):
    shards = write_latents(tmp_path / "shards", torch.zeros(4, 2, 3, 4, 5), 2)
    save_file({"latents": torch.ones(2, 2, 3, 4, 5)}, shards.folder / "shard-00001.safetensors")
    again = LatentShards(shards.folder)
    assert torch.equal(again[1], torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"shard-00001.safetensors: must hold what was written, got other numbers"):
        again[2]
