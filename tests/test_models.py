"""MVAM, FRM, VALDM, the losses and the training loop, on small inputs."""

import copy
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch.nn import functional as F

from tests.recorder import Recorder
from vsad.models import FRM, MVAM, VALDM, Projection, align_features, model_config, new_model, tiny
from vsad.models.derivative_vae import CONFIG, LATENTS, derivative_vae
from vsad.models.folding import _fold, encode_mean
from vsad.models.local_contrast import WINDOW, LocalContrast, _mean
from vsad.models.losses import alignment_loss, refine_loss
from vsad.models.shortcut import Shortcut, skip_zero_branches
from vsad.models.valdm import normalize
from vsad.training import Station, TrainConfig, encode, learn_latents, train


@pytest.fixture(scope="module")
def images():
    """Four samples of three views that see one scene through the rig."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.rand(4, 3, 12, 14, generator=generator)
    scenes = torch.nn.functional.interpolate(scenes, (64, 80), mode="bicubic").clamp(0, 1)
    return torch.stack([scenes[..., 8 * v : 8 * v + 64] for v in range(3)], dim=1)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at16(rig):
    return Projection.of(rig, (16, 16))


def test_new_mvam_and_frm_change_nothing(rig):
    feature = randn(2, 3, 16, 16, 16)
    assert torch.equal(MVAM(16)(feature, at16(rig)), feature)
    assert torch.equal(FRM(16)(feature, align_features(feature, at16(rig)).feature), feature)


def test_checkpointed_adapters_keep_their_inputs_alone_and_learn_the_same(rig):
    feature, model = randn(1, 3, 16, 16, 16), new_model(replace(tiny(), align_stages=("up0",)), 0)
    mvam, frm = MVAM(16), FRM(16)
    for parameter in (*mvam.parameters(), *frm.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)

    def learn():
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        leaf = feature.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            value = frm(mvam(leaf, at16(rig)), feature)
        return kept, torch.autograd.grad(value.square().sum(), [leaf, *mvam.parameters(), *frm.parameters()])

    kept, gradients = learn()
    model.adapter.enable_gradient_checkpointing()
    assert model.adapter.mvams["up0"].gradient_checkpointing
    mvam.gradient_checkpointing = frm.gradient_checkpointing = True
    kept_of_inputs, again = learn()
    assert kept_of_inputs < kept / 5
    for a, b in zip(gradients, again):
        assert torch.equal(a, b)


def test_mvam_learns_from_the_other_views_only_through_the_rig(rig):
    mvam = MVAM(8, heads=2)
    torch.nn.init.normal_(mvam.out.weight)
    feature = randn(1, 3, 8, 16, 16).requires_grad_()
    mvam(feature, at16(rig))[0, 0, :, 8, 8].sum().backward()
    reached = feature.grad[0, 1].abs().sum(0)  # (H, W) of view b
    rows, columns = torch.nonzero(reached > 0.1 * reached.max(), as_tuple=True)  # the norm spreads a little everywhere
    assert (rows - 8).abs().max() <= 2
    assert (columns - 6).abs().max() <= 2  # view b sees the point of pixel 8 two latent pixels to the left


def test_align_features_finds_the_same_surface_point(rig):
    wide = randn(1, 6, 16, 20)
    feature = torch.stack([wide[..., 2 * v : 2 * v + 16] for v in range(3)], dim=1)
    aligned, seen = align_features(feature, at16(rig), window=1)
    inner = aligned[0, 1, :, :, 3:13]
    torch.testing.assert_close(inner, feature[0, 1, :, :, 3:13], atol=1e-3, rtol=1e-3)
    assert not seen[0, 0, :, :2].any()  # what view a alone sees
    assert torch.equal(aligned[0, 0, :, :, :2], feature[0, 0, :, :, :2])
    assert seen[0, 0, :, 2:].all()


def test_alignment_loss_is_zero_for_views_that_agree_and_two_for_opposites(rig):
    feature = torch.ones(1, 3, 4, 16, 16)
    aligned = align_features(feature, at16(rig))
    assert float(alignment_loss([feature], [aligned])) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss([-feature], [aligned])) == pytest.approx(2, abs=1e-6)


def test_only_the_frms_learn_from_what_they_refine(rig):
    model = new_model(tiny(), 0)
    latents = randn(1, 3, 18, 16, 16)
    levels = model(latents, torch.tensor([100]), rig).levels
    refined = model.refine(levels, [align_features(level, at16(rig)) for level in levels])
    sum(level.square().mean() for level in refined).backward()
    learners = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert learners == {f"adapter.frms.{name}" for name, _ in model.adapter.frms.named_parameters()}


def test_a_model_without_feature_stages_has_the_latents_as_its_only_level(rig):
    model, latents = new_model(replace(tiny(), feature_stages=()), 0), randn(2, 3, 18, 16, 16)
    assert not model.adapter.frms
    (level,) = model.features(latents, rig)
    assert torch.equal(level, normalize(latents))
    before = model.unet.conv_in.weight.clone()
    train(model, Station(latents, rig), TrainConfig(steps=2, batch=1))
    assert not torch.equal(model.unet.conv_in.weight, before)


def test_refine_loss_is_relative_and_does_not_teach_the_target():
    target = randn(1, 2, 3, 4, 4).requires_grad_()
    refined = (2 * target.detach()).requires_grad_()
    loss = refine_loss([refined], [target])
    loss.backward()
    assert float(loss) == pytest.approx(1, rel=1e-6)
    assert refined.grad is not None
    assert target.grad is None


def test_derivative_vae_computes_gaussian_derivatives(images):
    image = images[0, :1]
    with torch.no_grad():
        latents = derivative_vae().encode(2 * image - 1).latent_dist.mode()[0]
    assert latents.shape == (LATENTS, 16, 16)
    luma = (2 * image - 1)[0].sum(0).numpy() / np.sqrt(3)
    smooth = cv2.GaussianBlur(luma, (0, 0), 2.2, borderType=cv2.BORDER_REFLECT)
    along_x = np.gradient(smooth, axis=1)
    for channel, expected in ((6, smooth), (7, along_x)):
        # a latent pixel's middle lies between four pixels
        middle = (
            expected[1:-2:4, 1:-2:4] + expected[2:-1:4, 1:-2:4] + expected[1:-2:4, 2:-1:4] + expected[2:-1:4, 2:-1:4]
        ) / 4
        inner = slice(2, 14)
        correlation = np.corrcoef(latents[channel, inner, inner].numpy().ravel(), middle[inner, inner].ravel())[0, 1]
        assert abs(correlation) > 0.99


def computed_in_full(vae):
    """The same autoencoder with diffusers' own blocks."""
    vae = copy.deepcopy(vae)
    for block in vae.modules():
        if isinstance(block, Shortcut):
            block.__class__ = ResnetBlock2D
    return vae


def test_branches_of_zeros_are_left_out_bit_for_bit(images):
    vae = derivative_vae()
    skip_zero_branches(vae)
    full = computed_in_full(vae)
    assert sum(isinstance(block, Shortcut) for block in vae.encoder.modules()) == 5
    assert all(torch.equal(weight, full.state_dict()[name]) for name, weight in vae.state_dict().items())
    assert vae.state_dict().keys() == AutoencoderKL(**CONFIG).state_dict().keys()
    block = vae.encoder.mid_block.resnets[0]
    calls = []
    block.conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(vae.encode(images[0]).latent_dist.mode(), full.encode(images[0]).latent_dist.mode())
        assert not calls
        for weight in (block.conv2.weight, block.conv2.bias):  # other weights may be loaded at any time
            weight.flatten()[0] = 0.5
            got, expected = (m.encode(images[0]).latent_dist.mode() for m in (vae, computed_in_full(vae)))
            assert torch.equal(got, expected)
            weight.zero_()
        assert calls


def test_a_loaded_model_leaves_them_out_too(trained, tmp_path):
    trained[0].save_pretrained(tmp_path)
    assert any(isinstance(block, Shortcut) for block in VALDM.from_pretrained(tmp_path).vae.modules())


def test_branches_of_zeros_learn(images):
    vae = derivative_vae()
    skip_zero_branches(vae)
    vae.encode(images[0]).latent_dist.mode().square().sum().backward()
    assert vae.encoder.mid_block.resnets[0].conv2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("quantized", [True, False])
def test_linear_layers_of_the_encoder_are_one(images, quantized):
    """Up to rounding the same latents, of weights that move blocks of pixels; of any others bit for bit the same."""
    vae = derivative_vae().requires_grad_(False)
    if not quantized:
        vae.quant_conv = None
    skip_zero_branches(vae)
    encoder, generator = vae.encoder, torch.Generator().manual_seed(0)
    for layer in (encoder.conv_in, encoder.down_blocks[0].downsamplers[0].conv, encoder.conv_out):
        layer.bias.data = torch.randn(layer.bias.shape, generator=generator)

    def check(folded):
        assert (_fold(encoder) is not None) == folded
        got, expected = encode_mean(vae, images[0]), computed_in_full(vae).encode(images[0]).latent_dist.mode()
        exact = computed_in_full(vae).double().encode(images[0].double()).latent_dist.mode()
        assert torch.equal(got, expected) or folded
        budget = 2 * (expected - exact).abs().max() + 10 * torch.finfo(torch.float32).eps * exact.abs().max()
        assert (got - exact).abs().max() <= budget

    check(folded=True)
    for weight in (
        encoder.conv_in.weight[2, 1, 0],  # reads the padding
        encoder.down_blocks[1].downsamplers[0].conv.weight[7, 3, :, 2],  # reads the next square
        encoder.down_blocks[2].resnets[0].conv2.weight[5],  # a branch that is not zero
    ):
        before = weight.clone()
        weight.fill_(0.1)
        check(folded=False)
        weight.copy_(before)
    check(folded=True)


def test_an_encoder_that_is_trained_runs_layer_by_layer(images):
    vae = derivative_vae()
    skip_zero_branches(vae)
    encode_mean(vae, images[0]).square().sum().backward()
    assert vae.encoder.conv_in.weight.grad[0, 0, 0, 0] != 0  # a tap that is zero learns too


def test_local_contrast_hardly_sees_light(images):
    """It computes what the autoencoder does, of pictures that a veil, a shadow and an exposure do not change."""
    contrast = LocalContrast()
    images = images[0]
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    veiled = 0.5 * images + 0.2 * y + 0.1 * x
    features = contrast(images)
    spread = (features - features.flip(-1)).square().mean().sqrt()
    assert (contrast(veiled) - features).square().mean().sqrt() < 0.1 * spread
    scratched = images.clone()
    scratched[:, :, 30:32, 10:50] = 1
    assert (contrast(scratched) - features)[:, :, 7, 4:11].square().mean().sqrt() > 0.3 * spread
    impulse = torch.zeros(1, 3, 64, 64)
    impulse[:, :, 29, 34] = 1.0
    ours = F.conv2d(F.pad(impulse, [4] * 4), contrast.filters, stride=4)[0, :12]
    theirs = derivative_vae().encode(impulse).latent_dist.mode()[0, :12]
    theirs = theirs - theirs[:, :1, :1]  # the encoder's mean of the background
    torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm(), atol=1e-4, rtol=0)


def test_means_of_windows_are_as_pooled():
    images = torch.rand(2, 3, 37, 64, generator=torch.Generator().manual_seed(0))
    exact = F.avg_pool2d(F.pad(images.double(), [WINDOW // 2] * 4, mode="reflect"), WINDOW, 1)
    assert (_mean(images) - exact).abs().max() < 4 * torch.finfo(torch.float32).eps


def test_normalize_divides_by_the_deviation_and_a_constant_channel_has_no_gradient():
    level = 5 * randn(2, 3, 4, 8, 8) + 2
    deviation = level.double().std((1, 3, 4), keepdim=True, correction=0)
    x = (level.double() - level.double().mean((1, 3, 4), keepdim=True)) / (deviation + 1e-5)
    exact = x / (1 + x.square()).sqrt()
    assert (normalize(level) - exact).abs().max() < 10 * torch.finfo(torch.float32).eps
    level[:, :, 1] = 3.0
    normalize(level.requires_grad_()).sum().backward()
    assert torch.isfinite(level.grad).all()
    assert torch.isfinite(normalize(300 * randn(1, 2, 3, 8, 8).half())).all()


def test_normalize_is_bounded_and_ignores_gain_and_offset():
    level = randn(2, 3, 4, 8, 8)
    result = normalize(level)
    assert result.abs().max() < 1
    torch.testing.assert_close(normalize(5 * level - 3), result, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(rig, images):
    torch.manual_seed(0)
    model = VALDM(tiny())
    latents = learn_latents(model, images)
    autoencoder = {name: value.clone() for name, value in model.vae.state_dict().items()}
    progress = Recorder()
    train(model, Station(latents, rig), TrainConfig(steps=6, seed=3), progress)
    assert all(torch.equal(autoencoder[name], value) for name, value in model.vae.state_dict().items())
    return model, latents, progress


def test_latents_are_standardized_for_good(trained, images):
    model, latents, _ = trained
    torch.testing.assert_close(latents.mean((0, 1, 3, 4)), torch.zeros(LATENTS), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 1, 3, 4), correction=0), torch.ones(LATENTS), atol=1e-3, rtol=0)
    torch.testing.assert_close(encode(model, images), latents, atol=1e-4, rtol=1e-4)


def test_training_reports_every_loss_and_moves_off_the_identity(trained):
    model, _, progress = trained
    assert progress.stages == [("train", 6, 6)]
    for text in progress.texts:
        losses = dict(part.split() for part in text.split(", "))
        assert list(losses) == ["loss", "steps/s", "diffusion", "refine"]
        assert np.isfinite([float(loss) for loss in losses.values()]).all()
        total = sum(float(losses[name]) for name in ("diffusion", "refine"))
        assert float(losses["loss"]) == pytest.approx(total, abs=2e-3)
    assert model.adapter.mvams["up1"].out.weight.abs().max() > 0
    assert model.adapter.frms["up2"].delta.weight.abs().max() > 0


def test_training_is_deterministic_and_reduces_the_loss(rig, images):
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        model = VALDM(replace(tiny(), align_stages=("up0", "up1", "up2")))
        latents = learn_latents(model, images)
        progress = Recorder()
        train(model, Station(latents, rig), TrainConfig(steps=30, batch=4, lr=3e-3, seed=0), progress)
        history = [float(text.split()[1].strip(",")) for text in progress.texts]
        results.append((history, model.features(latents[:1], rig)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))
    assert np.mean(results[0][0][-5:]) < np.mean(results[0][0][:5])


def test_model_survives_saving(trained, rig, tmp_path):
    model, latents, _ = trained
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "scheduler", "unet", "vae"]
    again = VALDM.from_pretrained(tmp_path)
    for a, b in zip(again.features(latents[:1], rig), model.features(latents[:1], rig)):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("file", "content", "kind", "message"),
    [
        ("adapter/config.json", None, FileNotFoundError, "config.json is missing"),
        ("adapter/config.json", "{", ValueError, "config.json: must be JSON"),
        ("adapter/config.json", "[]", ValueError, "config.json: must be a JSON object"),
        ("adapter/config.json", '{"heads": 2}', ValueError, "must belong together"),
        ("adapter/diffusion_pytorch_model.safetensors", None, FileNotFoundError, "adapter: its weights are missing"),
        ("adapter/diffusion_pytorch_model.safetensors", "broken", ValueError, "adapter: its weights are broken"),
        ("unet/config.json", None, FileNotFoundError, "unet/config.json is missing"),
        ("unet/diffusion_pytorch_model.safetensors", None, FileNotFoundError, "unet: its weights are missing"),
        ("vae/diffusion_pytorch_model.safetensors", "broken", ValueError, "vae: its weights are broken"),
        ("scheduler/scheduler_config.json", None, FileNotFoundError, "scheduler_config.json is missing"),
        ("scheduler/scheduler_config.json", "{", FileNotFoundError, "scheduler_config.json is missing or broken"),
    ],
)
def test_a_corrupt_model_folder_gets_one_clear_error(trained, tmp_path, file, content, kind, message):
    trained[0].save_pretrained(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_text(content)
    with pytest.raises(kind, match=message):
        VALDM.from_pretrained(tmp_path)


def test_weights_of_another_configuration_are_refused(trained, tmp_path):
    trained[0].save_pretrained(tmp_path)
    file = tmp_path / "adapter" / "config.json"
    config = json.loads(file.read_text())
    config["valdm"]["refine"] = False
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="must belong together"):
        VALDM.from_pretrained(tmp_path)


def test_bad_images_and_settings_are_refused():
    with pytest.raises(ValueError, match="sides divisible by 16, got"):
        VALDM(tiny()).encode(torch.rand(1, 2, 3, 60, 64))
    with pytest.raises(ValueError, match="train: steps must be at least 1, got 0"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match="train: lr must be positive and finite"):
        TrainConfig(lr=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "epsilon"])
def test_inversion_is_finite_in_half_precision(rig, prediction, dtype):
    model = new_model(model_config("tiny", {"prediction": prediction, "timesteps": [0, 100]}), 0).to(dtype)
    latents = randn(1, 3, LATENTS, 16, 16).to(dtype)
    with torch.no_grad():
        found = model.features(latents, rig)
        exact = model.double().features(latents.double(), rig)
    for level, wanted in zip(found, exact):
        assert (level.double() - wanted).square().mean().sqrt() < 0.05 * wanted.std()
