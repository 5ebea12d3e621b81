"""Training on small latents: every loss falls, stations take turns, and settings do what they say."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.recorder import Recorder
from tests.small_station import SHIFT
from tests.small_training import small_config, small_model, small_rig, small_station, weights_of
from vsad.config import read_config
from vsad.geometry import Rig
from vsad.models.discriminator import PatchDiscriminator
from vsad.models.losses import adversarial_loss, discriminator_loss
from vsad.training import Station, TrainConfig, train
from vsad.training.draws import Passes, Share
from vsad.training.objective import Objective
from vsad.training.optimization import new_discriminator
from vsad.training.processes import new_accelerator

pytestmark = pytest.mark.usefixtures("one_thread")


def read_log(folder):
    """The columns of a log as floats."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def all_draws(station, config):
    """One pass of many samples, noises and time steps."""
    return Passes([station], replace(config, steps=1, batch=8))[0]


@torch.no_grad()
def losses_of(model, station, config):
    """The losses without weights, on fixed draws."""
    one = replace(config, alignment=1.0, refine=1.0)
    _, clean, noise, timesteps = all_draws(station, config)
    terms = Objective(model, one)(clean, noise, timesteps, station.rig, station.category).terms
    return {name: float(term) for name, term in terms.items()}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_loss_falls(prediction):
    model, station = small_model(prediction=prediction), small_station(samples=8)
    config = TrainConfig(steps=40, batch=3, lr=5e-3, max_timestep=1000, alignment=1.0, refine=1.0)
    before = losses_of(model, station, config)
    train(model, station, config)
    after = losses_of(model, station, config)
    assert after["diffusion"] < 0.8 * before["diffusion"]
    assert after["alignment"] < 0.9 * before["alignment"]
    assert after["refine"] < 0.8 * before["refine"]


def test_a_discriminator_learns_and_a_model_learns_to_deceive_a_frozen_one():
    station, config = small_station(samples=8), TrainConfig(max_timestep=1000)
    model = small_model()
    objective = Objective(model, config)
    _, clean, noise, timesteps = all_draws(station, config)
    discriminator = new_discriminator(model, seed=0)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    with torch.no_grad():
        _, real, fake = objective(clean, noise, timesteps, station.rig, 0)
    for _ in range(30):
        loss = discriminator_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5
    discriminator.requires_grad_(False)
    optimizer = torch.optim.Adam(model.adapter.frms.parameters(), 5e-3)
    history = []
    for _ in range(25):
        loss = adversarial_loss(discriminator(objective(clean, noise, timesteps, station.rig, 0).fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[0] > 0  # the discriminator finds out every fake
    assert history[-1] < 0.7 * history[0]


def test_a_patch_discriminator_scores_patches_of_single_samples():
    feature = torch.randn(3, 2, 5, 16, 24, requires_grad=True)
    discriminator = PatchDiscriminator(5)
    scores = discriminator(feature)
    assert scores.shape == (3, 2, 1, 4, 6)
    torch.testing.assert_close(discriminator(feature[1:2]), scores[1:2])
    with torch.no_grad():  # without the norm, which is over all of a view, a score sees its patch alone
        discriminator.score[3] = torch.nn.Identity()
    discriminator(feature)[0, 0, 0, 0, 0].backward()
    rows, columns = torch.nonzero(feature.grad[0, 0].abs().sum(0), as_tuple=True)
    assert (int(rows.max()) + 1, int(columns.max()) + 1) == (11, 11)  # 18 less what lies outside


def test_adversarial_training_keeps_its_adversary_and_needs_frms(tmp_path):
    train(small_model(), small_station(), TrainConfig(steps=2, adversarial=0.1), folder=tmp_path)
    log = read_log(tmp_path)
    assert {"adversarial", "discriminator"} < set(log)
    assert (tmp_path / "checkpoints" / "step-00000002" / "discriminator.safetensors").is_file()
    np.testing.assert_allclose(log["discriminator"][0], 2, atol=0.2)
    with pytest.raises(
        ValueError, match="adversarial must be 0 for a model without FRMs, got more; set its refine and feature_stages"
    ):
        train(small_model(refine=False), small_station(), TrainConfig(adversarial=0.1))


def test_stations_take_turns_by_their_sizes_and_every_sample_comes_once_an_epoch():
    stations = [small_station(samples=6), small_station(samples=2, views=2)]
    config = TrainConfig(steps=32, batch=2)
    passes = Passes(stations, config)
    seen = {0: [], 1: []}
    for step in range(config.steps):
        station = int(passes.turns[step])
        seen[station] += [passes.sample(step, position) for position in range(2)]
    assert abs(len(seen[0]) - 48) <= 2  # three quarters of the steps, to within one
    for station, size in ((0, 6), (1, 2)):
        epochs = np.reshape(seen[station][: len(seen[station]) // size * size], (-1, size))
        assert (np.sort(epochs) == np.arange(size)).all()
        assert size == 2 or len({tuple(epoch) for epoch in epochs}) > 1


def test_what_a_sample_draws_does_not_depend_on_the_split():
    station, config = small_station(samples=6), TrainConfig(steps=3, batch=4)
    whole = Passes([station], config)[2]
    parts = [Passes([station], replace(config, accumulation=2), Share(process, 2)) for process in (0, 1)]
    pieces = [part[2 * 2 + k] for k in (0, 1) for part in parts]
    for name in ("clean", "noise", "timesteps"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name))
    assert not torch.equal(whole.noise[0], whole.noise[1])


def test_one_model_learns_several_categories(tmp_path):
    model = small_model(conditioning="class", categories=("bolt", "nut"))
    stations = [small_station(), small_station(views=2, seed=1, category=1)]
    train(model, stations, TrainConfig(steps=4), folder=tmp_path)
    assert (model.adapter.class_embedding.weight.abs().sum(1) > 0).all()


def test_the_log_has_a_row_for_each_step_and_the_picture_one_for_each_view(tmp_path):
    model, station = small_model(), small_station()
    config = TrainConfig(steps=4, batch=2, checkpoint_every=2, keep=1, seed=5, alignment=0.1)
    train(model, station, config, folder=tmp_path)
    log = read_log(tmp_path)
    names = ["step", "diffusion", "alignment", "refine", "total", "lr", "seconds", "samples_per_second"]
    assert list(log) == names
    assert log["step"] == [1, 2, 3, 4]
    np.testing.assert_allclose(log["total"], np.sum([log[name] for name in names[1:4]], axis=0), rtol=1e-6)
    assert log["lr"][0] == max(log["lr"]) == 2e-3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["step-00000002.png", "step-00000004.png"]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "step-00000004.png"))
    assert picture.shape == (3 * 64, 3 * 64, 3)
    assert picture.std() > 20


def test_tensorboard_is_written_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    config = TrainConfig(steps=1, tensorboard=True)
    train(small_model(), small_station(), config, folder=tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    monkeypatch.setattr("vsad.training.loop.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tensorboard must be installed, and is not; pip install 'vsad\[log\]'"):
        train(small_model(), small_station(), config, folder=tmp_path)


def test_the_model_ends_with_the_average_of_its_weights():
    results = {}
    for ema in (0.0, 0.999):
        results[ema] = small_model()
        train(results[ema], small_station(), TrainConfig(steps=3, ema=ema))
    start, last, average = (weights_of(model) for model in (small_model(), *results.values()))
    moved = {name: (last[name] - start[name]).abs().max() for name in start}
    name = max(moved, key=moved.get)
    assert (average[name] - start[name]).abs().max() > 0
    assert not torch.equal(average[name], last[name])
    assert (average[name] - start[name]).norm() < (last[name] - start[name]).norm()


def test_checkpointed_activations_give_the_same_weights_and_workers_the_same_samples():
    results = []
    for changes in ({}, {"checkpointing": True}, {"workers": 1}):
        results.append(small_model())
        train(results[-1], small_station(), TrainConfig(steps=3, **changes))
    weights = [weights_of(model) for model in results]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-6, rtol=1e-5)
        assert torch.equal(weights[2][name], weights[0][name])
    assert not results[1].unet.is_gradient_checkpointing


def test_half_precision_trains_and_the_next_training_is_its_own(tmp_path):
    model, station = small_model(), small_station(samples=8)
    config = TrainConfig(steps=6, lr=5e-3, max_timestep=1000, mixed_precision="bf16")
    before = losses_of(model, station, config)
    train(model, station, config)
    assert losses_of(model, station, config)["diffusion"] < before["diffusion"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match="mixed_precision must be 'no' or 'bf16' on a CPU, got 'fp16'"):
            train(model, station, replace(config, mixed_precision="fp16"))
    train(small_model(), station, TrainConfig(steps=1))


@pytest.fixture
def scales(monkeypatch):
    """Let a CPU train in float16, which accelerate leaves to GPUs: by the scale of losses that is given first."""
    given = []

    def accelerator(config, **more):
        if config.mixed_precision != "fp16":
            return new_accelerator(config, **more)
        made = new_accelerator(replace(config, mixed_precision="bf16"), **more)
        made.state._mixed_precision, made.scaler = "fp16", torch.amp.GradScaler("cpu", init_scale=given[0])
        given.append(made.scaler)
        return made

    monkeypatch.setattr("vsad.training.loop.new_accelerator", accelerator)
    return given


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_float16_trains_an_adversary_too(scales, adversarial):
    config, scale = TrainConfig(steps=4, adversarial=adversarial), 1024.0
    models = [small_model(), small_model(), small_model()]
    scales.append(scale)
    for model, precision in zip(models, ("no", "bf16", "fp16")):
        train(model, small_station(), replace(config, mixed_precision=precision))
    exact, bfloat16, float16 = ([*weights_of(model).values()] for model in models)
    errors = [
        max(float((weight - other).abs().max()) for weight, other in zip(exact, found) if weight.is_floating_point())
        for found in (bfloat16, float16)
    ]
    assert scales[1].get_scale() == scale
    assert 0 < errors[1] < 2 * errors[0]


def test_steps_that_overflow_in_float16_are_skipped_by_model_and_adversary(scales, tmp_path):
    scales.append(2.0**120)
    model, start = small_model(), small_model()
    config = TrainConfig(steps=3, adversarial=0.1, mixed_precision="fp16")
    train(model, small_station(), config, folder=tmp_path)
    assert scales[1].get_scale() == 2.0**117
    assert all(torch.equal(weight, weights_of(model)[name]) for name, weight in weights_of(start).items())
    adversary = dict(new_discriminator(start, config.seed).named_parameters())
    kept = load_file(tmp_path / "checkpoints" / "step-00000003" / "discriminator.safetensors")
    assert all(torch.equal(weight, kept[name]) for name, weight in adversary.items())
    assert len(read_log(tmp_path)["step"]) == 3


def test_a_loss_that_is_not_finite_ends_the_training_before_it_harms_the_weights(tmp_path):
    model, good = small_model(), small_station()
    bad = Station(torch.full((1, 3, 4, 16, 16), torch.nan), good.rig)
    progress = Recorder()
    config = TrainConfig(steps=8, checkpoint_every=1)
    turns = Passes([good, bad], config).turns
    first = int(np.argmax(turns == 1))
    with pytest.raises(FloatingPointError, match=rf"got diffusion nan, .* in step {first + 1}, .* a lr below 0.002$"):
        train(model, [good, bad], config, progress, folder=tmp_path)
    assert progress.stages == []
    assert all(torch.isfinite(weight).all() for weight in weights_of(model).values())
    assert read_log(tmp_path)["step"][-1] == first
    assert (tmp_path / "checkpoints" / f"step-{first:08d}").is_dir()
    assert not model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch=0", "train: batch must be at least 1, got 0"),
        ("lr=-1", "train: lr must be positive and finite, got -1"),
        ("lr=.nan", "train: lr must be positive and finite, got nan"),
        ("ema=1", "train: ema must be at least 0 and less than 1, got 1"),
        ("betas=[0.9, 1]", r"train: betas must be at least 0 and less than 1, got \(0.9, 1.0\)"),
        ("warmup=1.5", "train: warmup must be at least 0 and less than 1, got 1.5"),
        ("accumulation=2", "train: batch must be a multiple of accumulation, 2, got 1; change either"),
        ("keep=0", "train: keep must be at least 1, got 0"),
        ("refine=-0.1", "train: refine must be at least 0 and finite, got -0.1"),
        ("alignment=.inf", "train: alignment must be at least 0 and finite, got inf"),
        ("clip=.inf", "train: clip must be positive and finite, got inf"),
        ("schedule=step", "config: schedule is wrong, got 'step'"),
        ("mixed_precision=fp8", "config: mixed_precision is wrong, got 'fp8'"),
        ("step=3", "config: there is no field step"),
    ],
)
def test_settings_are_checked_in_words(change, message):
    with pytest.raises(ValueError, match=message):
        read_config(TrainConfig, changes=[change])


def test_what_does_not_fit_is_refused_in_words():
    model, station = small_model(), small_station()
    for stations, message in [
        ([], "stations must be at least one, got none"),
        (Station(station.latents[:, :2], station.rig), r"stations\[0\].latents must be .* V = 3 .*, got \(5, 2, 4"),
        (Station(station.latents[:0], station.rig), r"stations\[0\].latents must be"),
        ([station, small_station(category=1)], r"stations\[1\].category must be an integer from 0 to 0, got 1"),
        (station._replace(category=0.5), r"stations\[0\].category must be an integer from 0 to 0, got 0.5"),
        (station._replace(latents=station.latents[..., 8:]), "must have the aspect of the rig's images, 64 x 64, got"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(model, stations, TrainConfig())
    with pytest.raises(ValueError, match="max_timestep must be at most 1000, as the noise schedule has, got 1001"):
        train(model, station, TrainConfig(max_timestep=1001))
    with pytest.raises(ValueError, match=r"weights must be float32, got torch\.float16"):
        train(small_model().half(), station, TrainConfig())
    with pytest.raises(ValueError, match="must have weights that require gradients, got none"):
        train(small_model().requires_grad_(False), station, TrainConfig())
    with pytest.raises(ValueError, match="checkpoint_every needs a folder, got 5 without one"):
        train(model, station, TrainConfig(checkpoint_every=5))
    with pytest.raises(ValueError, match=r"batch must be a multiple of processes x accumulation, 2 x 1, got 3"):
        Passes([station], TrainConfig(batch=3), Share(0, 2))
    assert small_config() == model.config
    assert small_rig(2).views == ("a", "b")


@pytest.mark.parametrize("side", [16, 32])
def test_a_model_whose_unet_is_frozen_trains(side):
    """A group norm of torch crashes where its input, channels last, needs no gradient."""
    model, size = small_model(), (4 * side, 4 * side)
    model.unet.requires_grad_(False)
    rig = Rig.from_pairs(["a", "b"], size, {("a", "b"): SHIFT})
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    train(model, Station(torch.randn(1, 2, 4, side, side), rig), TrainConfig(steps=2))
    moved = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert any(name.startswith("mvams") for name in moved)
    assert moved <= model.adapter.state_dict().keys()


def test_a_training_neither_takes_nor_leaves_gradients():
    results = []
    for left in (0.0, 1.0):
        model, station = small_model(), small_station()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, left) if left else None
        train(model, station, TrainConfig(steps=2))
        assert all(parameter.grad is None for parameter in model.parameters())
        results.append(weights_of(model))
    assert all(torch.equal(weight, results[1][name]) for name, weight in results[0].items())
    bad = station.latents.clone()
    bad[:] = torch.nan
    with pytest.raises(FloatingPointError, match="must be finite"):
        train(model, station._replace(latents=bad), TrainConfig(steps=1))
    train(model, station, TrainConfig(steps=1))
