"""Training of autoencoders: they learn to give pictures back, and an encoder of derivatives stays as it is."""

from dataclasses import replace

import pytest
import torch

from tests.recorder import Recorder
from tests.small_training import small_model
from vsad.config import read_config
from vsad.models import VALDM, derivative_vae
from vsad.training import VAEConfig, train_vae

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = VAEConfig(steps=60, batch=2, crop=24, lr=5e-3)


@pytest.fixture(scope="module")
def images():
    """Six samples of two views of a smooth product."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.rand(1, 3, 4, 5, generator=generator) + 0.1 * torch.rand(6, 3, 4, 5, generator=generator)
    scenes = torch.nn.functional.interpolate(scenes / 1.1, (32, 40), mode="bicubic").clamp(0, 1)
    return torch.stack([scenes[..., :32], scenes[..., 8:]], dim=1)


@torch.no_grad()
def error_of(model, images):
    """The mean squared error of what comes back."""
    return float((model.decode(model.encode(images)) - images).square().mean())


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before, module):
    return all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_decoder_learns_to_undo_an_encoder_of_derivatives(images, tmp_path):
    model, progress = small_model(vae=derivative_vae.CONFIG, unet=derivative_unet()), Recorder()
    encoder, quantized, decoder = (
        state_of(model.vae.encoder),
        state_of(model.vae.quant_conv),
        state_of(model.vae.decoder),
    )
    before = error_of(model, images)
    train_vae(model, images, CONFIG, progress)
    after = error_of(model, images)
    assert after < 0.25 * before
    assert same(encoder, model.vae.encoder)
    assert same(quantized, model.vae.quant_conv)
    assert not same(decoder, model.vae.decoder)
    assert progress.stages == [("train autoencoder", 60, 60)]
    assert model.vae_is_tuned
    assert not model.vae.training
    assert not any(parameter.requires_grad for parameter in model.vae.parameters())
    model.save_pretrained(tmp_path)
    assert error_of(VALDM.from_pretrained(tmp_path), images) == after


def derivative_unet():
    return {**small_model().config.unet, "in_channels": derivative_vae.LATENTS, "out_channels": derivative_vae.LATENTS}


def test_any_other_encoder_learns_too_unless_it_is_told_not_to(images):
    model = small_model()
    before, encoder = error_of(model, images), state_of(model.vae.encoder)
    train_vae(model, list(images), CONFIG)
    assert error_of(model, images) < 0.25 * before
    assert not same(encoder, model.vae.encoder)
    encoder = state_of(model.vae.encoder)
    train_vae(model, images, replace(CONFIG, steps=1, train_encoder=False))
    assert same(encoder, model.vae.encoder)


def test_the_same_seed_gives_the_same_weights(images):
    models = [small_model(), small_model()]
    for model in models:
        train_vae(model, images, replace(CONFIG, steps=2))
    assert same(state_of(models[0].vae), models[1].vae)


def test_what_cannot_be_trained_on_is_refused(images):
    model = small_model()
    with pytest.raises(ValueError, match="images must be of at least one sample, got none"):
        train_vae(model, [], CONFIG)
    with pytest.raises(ValueError, match="sides of at least 4, got 3 x 32"):
        train_vae(model, images[..., :3, :], CONFIG)
    with pytest.raises(ValueError, match="train_vae: images must be finite and in"):
        train_vae(model, 255 * images, CONFIG)
    assert not any(parameter.requires_grad for parameter in model.vae.parameters())
    assert not model.vae_is_tuned
    with pytest.raises(ValueError, match="train_vae: crop must be at least 1, got 0"):
        VAEConfig(crop=0)
    assert read_config(VAEConfig, changes=["train_encoder=true"]).train_encoder is True
    with pytest.raises(ValueError, match="config: train_encoder"):
        read_config(VAEConfig, changes=["train_encoder=perhaps"])
