"""The HomographyNet that comes with vsad: what it does before any training, and which models start with it."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.homography_experiment import (
    FAR,
    HELD_OUT,
    IMAGE,
    LATENT,
    errors,
    measure,
    measured_on,
    pairs,
    perturbed,
    stations,
)
from tests.small_training import small_model
from vsad.geometry import Rig, RigPair, scale_homography
from vsad.models import VALDM, HomographyNet, new_model, refined_rig, tiny
from vsad.models.derivative_config import LATENTS
from vsad.models.homography_weights import WEIGHTS, WIDTH, load_homography_weights
from vsad.training import Station, TrainConfig, train


def network_of(homographies):
    return new_model(replace(tiny(), homographies=homographies), 0).adapter.homography_net


@pytest.fixture(scope="module")
def coins():
    """A station whose photograph the network was not trained on."""
    (scene,) = stations(("coins",), range(51, 52))
    return scene


def test_a_rig_that_is_8_pixels_off_is_pulled_back_before_any_training(coins):
    start, *_, end = measure(network_of("refined"), [coins])["coins"]
    assert start.median() > 4
    assert end.max() < 2


def test_without_a_rig_neighbors_are_found_before_any_training():
    start, *_, end = measure(network_of("learned"), pairs(("coins",), 2, FAR, seed=1))["coins"]
    assert start.min() > 100
    assert end.max() < 4


def test_a_network_of_fewer_stages_takes_the_finer_ones(coins):
    """A rig that is 2 pixels off is what the coarse stages would have left of it."""
    net = load_homography_weights(HomographyNet(LATENTS, stages=2, width=WIDTH))
    assert torch.equal(net.matches[1].gain, network_of("refined").matches[2].gain)
    start = perturbed(coins.truth, 2.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        *_, fine = net(coins.latents[:1], scale_homography(start, IMAGE, LATENT)[None].float(), coins.neighbors)
    off = errors(scale_homography(fine[0].double(), LATENT, IMAGE), coins.truth)
    assert off.mean() < 0.5 * errors(start, coins.truth).mean()


def test_the_weights_are_small_and_those_of_a_network_that_searches():
    assert WEIGHTS.stat().st_size < 500_000
    weights = load_file(WEIGHTS)
    assert weights.keys() == HomographyNet(LATENTS, width=WIDTH, search=True).state_dict().keys()
    assert all(value.isfinite().all() for value in weights.values())
    assert torch.equal(network_of("learned").search.gain, weights["search.gain"])


def test_another_autoencoder_starts_with_a_network_that_changes_nothing():
    for homographies in ("refined", "learned"):
        net = small_model(homographies=homographies).adapter.homography_net
        assert not any(parameter.any() for name, parameter in net.named_parameters() if name.endswith("gain"))


def test_a_training_goes_on_from_the_weights_and_a_model_keeps_its_own(rig, tmp_path):
    model = new_model(replace(tiny(), homographies="refined"), 0)
    latents = torch.randn(2, 3, LATENTS, 16, 16, generator=torch.Generator().manual_seed(0))
    train(model, [Station(latents, rig)], TrainConfig(steps=2, batch=1))
    own, shipped = model.adapter.homography_net.state_dict(), load_file(WEIGHTS)
    moved = [float((own[name] - shipped[name]).abs().max()) for name in own]
    assert 0 < max(moved) < 0.1
    model.save_pretrained(tmp_path)
    again = VALDM.from_pretrained(tmp_path).adapter.homography_net.state_dict()
    assert all(torch.equal(again[name], own[name]) for name in own)


def test_the_median_rig_of_samples_is_nearer_still(coins):
    """What a detector takes of a rig that is 8 pixels off: one rig, of all normal samples."""
    model = new_model(replace(tiny(), homographies="refined"), 0)
    off = perturbed(coins.truth, 8.0, torch.Generator().manual_seed(0))
    slots = [(i, n, j) for i, row in enumerate(coins.neighbors.tolist()) for n, j in enumerate(row)]
    pairs = tuple(RigPair(f"C{i}", f"C{j}", off[i, n]) for i, n, j in slots)
    found = refined_rig(model, coins.latents, Rig([f"C{i}" for i in range(len(off))], IMAGE, pairs))
    left = torch.stack([errors(pair.homography, coins.truth[i, n]) for pair, (i, n, _) in zip(found.pairs, slots)])
    assert left.max() < 2


@pytest.mark.slow
@pytest.mark.parametrize(("homographies", "goal"), [("refined", 2.0), ("learned", 4.0)])
def test_every_held_out_slot_is_found(homographies, goal):
    """A minute of one core; docs/homography_net.md has the figures."""
    pytest.importorskip("skimage")
    for name, error in measure(network_of(homographies), measured_on(HELD_OUT, homographies == "learned")).items():
        assert error[-1].max() < goal, name
