"""Fitting takes memory for a few samples, however many there are, and gives what it gave with all of them in memory."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.small_station import randn
from tests.small_training import small_model, small_station, weights_of
from vsad.detection import Detector, DetectorConfig, Placement, Placements, glare, place
from vsad.detection.glare import Glare
from vsad.detection.level import FLOOR, PLACE, Level
from vsad.detection.memory.prototypes import CANDIDATES, _candidates
from vsad.detection.memory.scaling import SHRINKAGE, scaling
from vsad.detection.smoothing import gaussian
from vsad.scratch import Scratch, in_columns
from vsad.training import Station, TrainConfig, learn_encodings, learn_latents, train

ROOT = Path(__file__).resolve().parents[1]

# Fits few samples, which takes what every fit does, then as many more as asked for, and prints by how many bytes each
# of these raised the highest memory.
GROWTH = """
import resource, sys, torch
from types import SimpleNamespace
from torch.nn import functional as F
from vsad.detection import DetectorConfig, load_network
from vsad.detection.memory import prototypes
from vsad.geometry import Rig, translation
from vsad.models import new_model, tiny
from vsad.pipeline.parts import Split, fit_detector
from vsad.progress import SILENT

SIZE, VIEWS = (128, 128), "abcde"

class Normal:
    def __init__(self, count):
        self.count, self.samples = count, [SimpleNamespace(id=str(index)) for index in range(count)]
    def __len__(self):
        return self.count
    def iter_images(self):
        return ((index, self.read_images(index)) for index in range(self.count))
    def read_images(self, index):
        look = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(index))
        look, noise = (F.interpolate(x, SIZE, mode="bilinear") for x in (look, noise))
        return (0.05 + 0.8 * look + 0.02 * noise).clamp(0, 0.9)

def fit(count):
    split = Split.to_fit(Normal(count), None, model, rig, SILENT, network=network)
    fit_detector(model, rig, split, None, config, network=network)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

torch.set_num_threads(1)
prototypes.CANDIDATES = 1000  # few samples have as many
rig = Rig.from_pairs(list(VIEWS), SIZE, {(a, b): translation(-8, 0) for a, b in zip(VIEWS, VIEWS[1:])})
model, network = new_model(tiny(), 0), load_network("contrast")
config = DetectorConfig(memory=sys.argv[1], references=8, prototypes=8, parts=2)
few, more = 14, int(sys.argv[2])
before = fit(few)
print((fit(few + more) - before) / more)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize("memory", ["aligned", "prototypes"])
def test_memory_does_not_grow_with_samples(memory):
    """The latents of a sample are 0.37 MB here, its maps and every level of features as much or more."""
    command = [sys.executable, "-c", GROWTH, memory, "30"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert float(result.stdout) < 0.25e6


def test_a_detector_fitted_from_disk_is_the_one_fitted_from_tensors(station, rig):
    model, latents, *_ = station
    placements = Placements()
    for _ in latents:
        placements.append(place(0.5 * torch.ones(3, 3, 64, 64), None)[1])
    maps = randn(len(latents), 3, 5, 16, 16)
    in_memory = Detector.fit(model, rig, latents, placements=list(placements), maps=[maps])
    on_disk = Detector.fit(model, rig, Scratch(latents), placements=placements, maps=[Scratch(maps)])
    assert in_memory.threshold == on_disk.threshold
    expected = in_memory.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in on_disk.state_dict().items())


def statistics(scores, seen, by_place):
    """Mean and deviation of the scores ``(S, V, h, w)`` of some samples, by their definition."""
    weight = seen.double()

    def average(x):
        if by_place:
            return gaussian((x * weight).sum(0), PLACE) / gaussian(weight.sum(0), PLACE).clamp(min=1e-3)
        views = ((x * weight).sum((0, 2, 3)) / weight.sum((0, 2, 3)))[:, None, None]
        return views.expand(x.shape[1:])

    mean = average(scores)
    bessel = len(scores) / (len(scores) - 1) if by_place else 1
    deviation = (average((scores - mean).square()) * bessel).sqrt()
    return mean, deviation + FLOOR * deviation[seen.any(0)].mean()


@pytest.mark.parametrize("memory", ["aligned", "prototypes"])
def test_statistics_without_a_sample_are_those_of_the_others(memory):
    features, painted = randn(7, 2, 4, 9, 8), randn(2, 2, 4, 9, 8, seed=1)
    seen = randn(7, 2, 9, 8, seed=2) > -1.5
    seen[:, :, :2, :2] = False
    changed = list(zip((4, 0), painted))
    config = DetectorConfig(memory=memory, prototypes=30)
    level, deviations = Level.fit(features, seen, config, changed=changed)
    by_place, known = level.memory.by_place, level.known
    scores = torch.stack([*level.memory.normal_scores(features, seen, changed=changed)]).double()
    mean, deviation = statistics(scores[:7], seen & known, by_place)
    torch.testing.assert_close(level.mean, mean.float())
    torch.testing.assert_close(level.deviation, deviation.float())
    for row, left_out in enumerate([*range(7), 4, 0]):
        others = [index for index in range(7) if index != left_out]
        mean, deviation = statistics(scores[others], seen[others] & known, by_place)
        torch.testing.assert_close(deviations[row], ((scores[row] - mean) / deviation).float())


def test_two_samples_have_the_statistics_of_both():
    features, seen = randn(2, 1, 4, 6, 6), torch.ones(2, 1, 6, 6, dtype=torch.bool)
    level, deviations = Level.fit(features, seen, DetectorConfig())
    scores = torch.stack([*level.memory.normal_scores(features, seen)])
    torch.testing.assert_close(torch.stack([*deviations]), (scores - level.mean) / level.deviation)


def test_scaling_is_the_one_of_the_covariance_of_all_residuals():
    """Places differ a thousand times as much as samples, which sums of squares would lose in float32."""
    features = 1e3 * randn(1, 2, 4, 6, 5) + randn(9, 2, 4, 6, 5, seed=1)
    seen = randn(9, 2, 6, 5, seed=2) > -1
    weight = seen[:, :, None].double()
    mean = (features * weight).sum(0) / weight.sum(0)
    rows = (features - mean).movedim(2, -1)[seen]
    covariance = rows.T @ rows / len(rows)
    values, vectors = torch.linalg.eigh(covariance)
    spread = values + SHRINKAGE * values.mean()
    transform = scaling(Scratch(features), Scratch(seen)).double()
    # Eigenvectors have no sign; distances do not see it.
    expected = vectors / (4 * spread)[None].sqrt()
    torch.testing.assert_close(transform @ transform.T, expected @ expected.T, rtol=1e-4, atol=1e-5)


def test_prototypes_are_chosen_among_random_features_that_say_something(monkeypatch):
    monkeypatch.setattr("vsad.detection.memory.prototypes.CANDIDATES", 40)
    features, seen = randn(6, 2, 3, 5, 4), randn(6, 2, 5, 4, seed=1) > 0
    kept = [0, 2, 3, 5]
    rows = features[kept].transpose(0, 1).movedim(2, -1).flatten(1, -2)  # (V, S h w, C)
    shown = seen[kept].transpose(0, 1).flatten(1)
    drawn = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(3))
    found = _candidates(Scratch(features), Scratch(seen), kept, seed=3)
    for row, mask, candidates in zip(rows, shown, found):
        assert torch.equal(candidates, row[drawn[mask[drawn]][:40]])
        assert len(candidates) <= 40 < CANDIDATES


def test_the_usual_light_is_the_median_however_many_places_are_looked_at_together(monkeypatch):
    light = (255 * torch.rand(9, 2, 8, 8, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    inside = randn(9, 2, 8, 8) > -0.5
    placements = [
        Placement(None, mask, randn(2, 8, 8, seed=i) > 1, one) for i, (mask, one) in enumerate(zip(inside, light))
    ]
    whole = Glare.fit(placements, (8, 8))
    expected = (light / 255).where(inside, torch.nan).nanmedian(0).values
    torch.testing.assert_close(whole.usual, expected, equal_nan=True)
    assert torch.equal(whole.bright, torch.stack([p.dazzled for p in placements]).float().mean(0) > 0.2)
    monkeypatch.setattr(glare, "_AT_ONCE", 30)
    torch.testing.assert_close(Glare.fit(iter(placements), (8, 8)).usual, whole.usual, rtol=0, atol=0, equal_nan=True)


def test_latents_are_standardized_alike_on_disk_and_in_memory(station):
    model = station[0]
    images = torch.rand(5, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = model.adapter.latent_mean.clone(), model.adapter.latent_deviation.clone()
    on_disk = learn_encodings(model, images)
    raw = torch.cat([model.encode_raw(sample[None]) for sample in images])
    torch.testing.assert_close(model.adapter.latent_mean.flatten(), raw.mean((0, 1, 3, 4)))
    torch.testing.assert_close(model.adapter.latent_deviation.flatten(), raw.std((0, 1, 3, 4), correction=0))
    assert torch.equal(learn_latents(model, images), torch.stack([*on_disk]))
    for buffer, value in zip((model.adapter.latent_mean, model.adapter.latent_deviation), before):
        buffer.copy_(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool])
def test_what_is_kept_is_read(dtype):
    samples = (10 * randn(5, 2, 3, 4)).to(dtype).transpose(1, 3)
    kept = Scratch(samples)
    assert (len(kept), kept.shape) == (5, samples.shape)
    assert all(map(torch.equal, kept, samples))
    assert torch.equal(kept[-1], samples[4])
    kept[1].zero_()  # a copy's own
    assert torch.equal(kept[1], samples[1])
    first = kept[0]
    kept.append(samples[2])
    assert torch.equal(kept[5], samples[2])
    del kept
    assert torch.equal(first, samples[0])  # outlives the file
    with pytest.raises(IndexError):
        Scratch(samples)[5]


def test_nothing_is_left_of_a_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept, moved = Scratch(randn(3, 2)), None
    assert not [*tmp_path.iterdir()] or os.name == "nt"
    number = kept._opened.file.fileno()
    moved = kept.to(torch.device("cpu"))
    del kept
    assert torch.equal(moved[2], randn(3, 2)[2])
    del moved
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_samples_of_another_size_and_type_are_refused():
    kept = Scratch(torch.zeros(2, 3, 4))
    with pytest.raises(
        ValueError, match=r"one shape and type, \[3, 4\] torch.float32, got \[4, 3\] torch.float32; give"
    ):
        kept.append(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"got \[3, 4\] torch.bool"):
        kept.append(torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="zip"):
        in_columns([(torch.zeros(2), torch.zeros(3)), (torch.zeros(2),)])
    assert len(kept) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told_with_the_folder_and_the_remedy(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
    with pytest.raises(
        OSError, match=r"/\S+: must have room .* 4.0 MB of each here alone, got .*; set TMPDIR to a folder"
    ):
        Scratch([torch.zeros(1000, 1000)])


def test_a_disk_that_is_too_small_is_told_after_the_first_sample(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=9_000_000_000))
    asked = []
    rows = ((torch.zeros(500, 500), asked.append(index) or torch.zeros(2000, 500)) for index in range(2000))
    with pytest.raises(OSError, match=r"room for what is computed of 2000 samples, 10.0 GB, got 9.0 GB; set TMPDIR"):
        in_columns(rows, 2000)
    assert asked == [0]
    assert [len(column) for column in in_columns([(torch.zeros(500),)] * 5, 5)] == [5]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("one_thread")
def test_a_training_sees_no_difference(workers):
    station, models = small_station(), [small_model(), small_model()]
    train(models[0], station, TrainConfig(steps=2, batch=2))
    train(models[1], Station(Scratch(station.latents), station.rig), TrainConfig(steps=2, batch=2, workers=workers))
    expected = weights_of(models[0])
    assert all(torch.equal(expected[name], weight) for name, weight in weights_of(models[1]).items())


def test_a_temporary_file_is_not_sent_to_another_process():
    with pytest.raises(TypeError, match="cannot be sent to another process or be copied; write its samples"):
        pickle.dumps(Scratch(torch.zeros(2, 3)))
