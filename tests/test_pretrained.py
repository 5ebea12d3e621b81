"""VALDM on pretrained pipelines: small random ones of the real classes, loaded without a network."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.pretrained import model_on, save_pipeline
from vsad.models import VALDM, VALDMConfig, new_model, sd, tiny
from vsad.training import Station, TrainConfig, learn_latents, train

LAYOUTS = ("1.5", "2.1")
STAGES = ("down0", "down2", "mid", "up0", "up1", "up3")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    return {layout: save_pipeline(tmp_path_factory.mktemp("sd"), layout) for layout in LAYOUTS}


ON_BASE = {"base": "x", "vae": {}, "unet": {}, "conditioning": "text"}


def inputs(views=3, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, views, 4, 16, 16, generator=generator), torch.tensor([10, 700])[:batch]


@pytest.mark.parametrize("tune", ["new", "lora", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_modules_change_no_bit_of_a_pretrained_prediction(pipelines, rig, layout, tune):
    pipeline = StableDiffusionPipeline.from_pretrained(pipelines[layout], safety_checker=None)
    model = model_on(
        pipelines[layout], align_stages=STAGES, tune=tune, conditioning="text", categories=("cable", "screw")
    )
    unet = model.unet  # the same weights at the same places in memory, on which last digits depend
    assert (
        all(torch.equal(ours, theirs) for ours, theirs in zip(unet.parameters(), pipeline.unet.parameters()))
        or tune == "lora"
    )
    for weight in pipeline.text_encoder.parameters():  # likewise
        weight.data = weight.data.clone()
    latents, times = inputs()
    text = pipeline.encode_prompt("a photo of a screw", "cpu", 1, False)[0].repeat(6, 1, 1)
    with torch.no_grad():
        ours = model(latents, times, rig, torch.tensor([1, 1])).prediction
        views = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # last digits depend on it
        theirs = unet(views, times.repeat_interleave(3), text).sample
    assert torch.equal(ours.flatten(0, 1), theirs)
    assert model.scheduler.config["prediction_type"] == ("v_prediction" if layout == "2.1" else "epsilon")
    assert torch.equal(model.scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)


def test_the_latents_are_those_of_the_pipeline_and_stay_so(pipelines):
    pipeline = StableDiffusionPipeline.from_pretrained(pipelines["1.5"], safety_checker=None)
    model = model_on(pipelines["1.5"])
    images = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = pipeline.vae.encode(2 * images.flatten(0, 1) - 1).latent_dist.mode() * 0.18215
        ours = learn_latents(model, images)
        decoded = pipeline.vae.decode(theirs / 0.18215).sample / 2 + 0.5
        torch.testing.assert_close(model.decode(ours).flatten(0, 1), decoded.clamp(0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.flatten(0, 1), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tune", "parts"), [("new", set()), ("lora", {"unet_lora"}), ("all", {"unet"})])
def test_only_what_is_chosen_is_trained_and_saved(pipelines, rig, tmp_path, tune, parts):
    model = model_on(pipelines["1.5"], tune=tune)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    latents = inputs(batch=2)[0]
    train(model, Station(latents, rig), TrainConfig(steps=2, lr=1e-2))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("adapter.") for name in changed)
    assert not any(name.startswith("vae.") for name in changed)
    of_unet = {name for name in changed if name.startswith("unet.")}
    assert bool(of_unet) == (tune != "new")
    assert all(("lora_" in name) == (tune == "lora") for name in of_unet)

    model.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"adapter", "scheduler"} | parts
    again = VALDM.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    with torch.no_grad():
        for a, b in zip(again.features(latents, rig), model.features(latents, rig)):
            assert torch.equal(a, b)
    again.save_pretrained(tmp_path / "copy")  # what was loaded can be saved
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"adapter", "scheduler"} | parts


def test_a_variant_in_half_precision_is_read_in_float32(tmp_path):
    folder = save_pipeline(tmp_path, variant="fp16")
    with pytest.raises(
        FileNotFoundError, match=r"vae: its weights are missing.*; give variant='fp16', as diffusion_py"
    ):
        VALDM.from_pretrained(folder)
    model = VALDM.from_pretrained(folder, variant="fp16", config=replace(sd(), heads=4))
    assert model.config.variant == "fp16"
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_pickled_weights_are_not_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vae: its weights are missing.*; its weights are pickled"):
        VALDM.from_pretrained(save_pipeline(tmp_path, safetensors=False))


def test_a_model_whose_base_is_gone_names_it(pipelines, tmp_path):
    model = model_on(save_pipeline(tmp_path / "base"))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "base" / "pipeline" / "unet" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"the base .*pipeline cannot be read, .*unet/config.json is missing"):
        VALDM.from_pretrained(tmp_path / "model")


def test_a_base_is_found_from_another_folder(pipelines, tmp_path, monkeypatch):
    monkeypatch.chdir(pipelines["1.5"].parent)
    model = VALDM(replace(sd(), base=pipelines["1.5"].name, heads=4))
    assert model.config.base == str(pipelines["1.5"].resolve())
    model.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(VALDM.from_pretrained("model").unet.conv_in.weight, model.unet.conv_in.weight)


@pytest.mark.parametrize(("tune", "read"), [("new", ("unet", "vae")), ("lora", ("unet", "vae")), ("all", ("vae",))])
def test_a_base_of_other_weights_is_refused(pipelines, tmp_path, tune, read):
    base = tmp_path / "base"
    shutil.copytree(pipelines["1.5"], base)
    model_on(base, tune=tune).save_pretrained(tmp_path / "model")
    VALDM.from_pretrained(tmp_path / "model")
    for part in ("unet", "vae"):
        file = base / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        name = next(name for name in weights if "attn" in name or "mid_block" in name)
        save_file({**weights, name: weights[name] + 0.01}, file)
        if part in read:
            with pytest.raises(ValueError, match=rf"base/{part}: its weights must be those that .*model was made on"):
                VALDM.from_pretrained(tmp_path / "model")
        else:
            VALDM.from_pretrained(tmp_path / "model")
        save_file(weights, file)


def test_folders_that_are_no_model_get_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"adapter/config\.json is missing: name a folder"):
        VALDM.from_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="the hub has no such repository or cannot be reached"):
        VALDM.from_pretrained("nobody/nothing")


def test_pipelines_of_other_kinds_are_refused(pipelines, tmp_path):
    unet = UNet2DConditionModel.from_pretrained(pipelines["1.5"], subfolder="unet")
    unet.register_to_config(class_embed_type="timestep")
    with pytest.raises(ValueError, match="got class_embed_type in its configuration; name another base"):
        VALDM(replace(sd(), base=str(pipelines["1.5"]), heads=4), unet=unet)
    crossing = {**tiny().unet, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"]}
    with pytest.raises(ValueError, match="unet must have no cross-attention where there is no base"):
        VALDM(replace(tiny(), unet=crossing))


def test_text_tells_categories_apart(pipelines, rig):
    model = model_on(pipelines["1.5"], conditioning="text", categories=("cable", "screw"), prompt="photo of {category}")
    latents, times = inputs()
    with torch.no_grad():
        first, second, both = (model(latents, times, rig, torch.tensor(c)).prediction for c in ([0, 0], [1, 1], [0, 1]))
    assert not torch.allclose(first, second)
    assert torch.equal(both[0], first[0])
    assert torch.equal(both[1], second[1])
    assert not any("text" in name for name, _ in model.named_modules())  # encoded once, not kept


def test_a_class_embedding_starts_at_nothing_and_learns(rig):
    config = replace(tiny(), conditioning="class", categories=("cable", "screw"))
    model, plain = new_model(config, 0), new_model(tiny(), 0)
    latents = torch.randn(2, 3, 18, 16, 16, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0, 300])
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        new = model(latents, times, rig, torch.tensor([0, 1])).prediction
        assert torch.equal(new, plain(latents, times, rig).prediction)
        torch.nn.init.normal_(model.adapter.class_embedding.weight)
        changed = model(latents, times, rig, torch.tensor([1, 1])).prediction
    assert not torch.allclose(changed[0], new[0])


def test_features_are_read_at_every_time_step_with_one_pass_each(rig):
    config = replace(tiny(), timesteps=(0, 40, 120), feature_stages=("mid", "up1", "up2"), refine=False)
    model = new_model(config, 3).eval()
    latents = torch.randn(2, 3, 18, 16, 16, generator=torch.Generator().manual_seed(0))
    passes = []
    model.unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    ends = []
    model.unet.conv_out.register_forward_hook(lambda *_: ends.append(1))
    with torch.no_grad():
        levels = model.features(latents, rig)
        assert (len(passes), len(ends)) == (3, 2)  # the last pass ends after the last feature stage
        alone = new_model(replace(config, timesteps=(40,)), 3).eval()
        assert [tuple(level.shape[2:]) for level in levels[:4]] == [
            (18, 16, 16),
            (64, 4, 4),
            (48, 16, 16),
            (32, 16, 16),
        ]
        assert len(levels) == 1 + 3 * 3
        for a, b in zip(levels[4:7], alone.features(latents, rig)[1:]):
            assert torch.equal(a, b)
        for a, b in zip(levels, model.features(latents[:1], rig)):  # samples do not see each other
            torch.testing.assert_close(a[:1], b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": "lora"}, "tune must be 'all' where there is no base"),
        ({"conditioning": "class"}, "categories must be named for conditioning by class"),
        (
            {"conditioning": "text", "categories": ("a",)},
            "conditioning must be 'class' or 'none' where there is no base",
        ),
        ({"timesteps": (50, 20)}, "timesteps must ascend"),
        ({"timesteps": ()}, "timesteps must ascend"),
        ({"window": 2}, "window must be odd"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"base": "x"}, "vae and unet must be left out where there is a base; choose the preset sd"),
        ({"conditioning": "class", "categories": ("a", "b", "a")}, "categories must differ, got"),
        (
            {**ON_BASE, "categories": ("a",), "prompt": "a photo"},
            "prompt must hold {category}",
        ),
        ({**ON_BASE, "categories": ("a",), "prompt": "a {categry}"}, "and no other braces"),
        (
            {**ON_BASE, "categories": ("a",), "prompt": "a {}{category}"},
            "and no other braces",
        ),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **changes)


def test_a_category_has_its_own_number_or_none():
    config = replace(tiny(), conditioning="class", categories=("cable", "screw"))
    assert [config.index_of(name) for name in ("cable", "screw", None)] == [0, 1, 0]
    assert tiny().index_of("anything") == 0
    with pytest.raises(ValueError, match=r"category must be one of \['cable', 'screw'\], got 'bolt'; add it"):
        config.index_of("bolt")


def test_unknown_stages_are_refused():
    with pytest.raises(ValueError, match=r"align_stages must be of \['down0'.*got \['up7'\]"):
        VALDM(replace(tiny(), align_stages=("up7",)))
    assert VALDMConfig().align_stages == ("up0", "up1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 7}, "heads must divide the channels of every stage that is aligned, 64 of up0, got 7"),
        ({"unet": {**tiny().unet, "depth": 3}}, "unet must hold arguments that fit UNet2DConditionModel, got .*depth"),
        ({"unet": {**tiny().unet, "norm_num_groups": 7}}, "unet must hold arguments that fit .*divisible"),
        ({"vae": {"latent_channel": 3}}, "vae must hold arguments that fit AutoencoderKL, got .*latent_channel"),
    ],
)
def test_models_that_cannot_be_made_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VALDM(replace(tiny(), **changes))


def test_inputs_that_do_not_fit_are_refused_in_words(rig):
    model = new_model(replace(tiny(), conditioning="class", categories=("cable", "screw")), 0).eval()
    x, t, rows = torch.zeros(2, 3, 18, 16, 16), torch.tensor([0, 10]), torch.tensor([1, 0])
    for arguments, kind, message in [
        ((x[:, :2], t, rig), ValueError, r"latents must be \[B 3 18 h w\] with B at least 1, .* got \[2, 2, 18"),
        ((x[:, :, :4], t, rig), ValueError, r"latents must be \[B 3 18 h w\]"),
        ((x[:0], t[:0], rig), ValueError, r"latents must be .* with B at least 1"),
        ((x[..., :14, :14], t, rig), ValueError, "latents must have sides divisible by 4, got"),
        (
            (x[..., :8], t, rig),
            ValueError,
            "latents must have the aspect of the rig's images, 64 x 64, got 16 x 8; scale the rig",
        ),
        ((x.double(), t, rig), TypeError, "latents must be torch.float32, as the model is, got torch.float64"),
        ((x.long(), t, rig), TypeError, "latents must be a tensor of floating point, got torch.int64"),
        ((x, t, None), TypeError, "rig must be a vsad.geometry.Rig, got NoneType"),
        ((x, t.float(), rig), TypeError, "timesteps must be an int64 tensor, got torch.float32"),
        ((x, t[:1], rig), ValueError, r"timesteps must be \[2\], one for each sample, got \[1\]"),
        ((x, t + 990, rig), ValueError, "timesteps must be from 0 to 999, got 1000"),
        ((x, t, rig, rows - 1), ValueError, "category must be from 0 to 1, got -1"),
        ((x, t, rig, rows + 1), ValueError, "category must be from 0 to 1, got 2"),
        ((x, t, rig, "screw"), TypeError, "category must be an int64 tensor, got str"),
    ]:
        with pytest.raises(kind, match=f"VALDM: {message}"):
            model(*arguments)
    with pytest.raises(ValueError, match="timesteps must be from 0 to 999, got -1"):
        model.reconstruct(x, rig, timestep=-1)
    with pytest.raises(ValueError, match=r"category must be \[2\]"):
        model.features(x, rig, rows[:1], stages=False)


def test_nothing_of_an_older_model_in_the_folder_is_read(tmp_path):
    base = save_pipeline(tmp_path / "base")
    older = model_on(base, tune="all")
    with torch.no_grad():
        older.unet.conv_in.weight.mul_(2)
    older.vae_is_tuned = True
    older.save_pretrained(tmp_path / "model")
    newer = model_on(base)
    newer.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "unet").exists()
    assert not (tmp_path / "model" / "vae").exists()
    again = VALDM.from_pretrained(tmp_path / "model")
    assert torch.equal(again.unet.conv_in.weight, newer.unet.conv_in.weight)
    newer.save_pretrained(base)  # what is a pipeline's stays
    assert (base / "unet" / "config.json").is_file()


def test_an_incomplete_text_encoder_or_tokenizer_is_refused(tmp_path):
    base = save_pipeline(tmp_path / "base")
    file = base / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    save_file({name: w for name, w in weights.items() if "mlp.fc1.weight" not in name}, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"text_encoder: config and weights must .*, got 2 weights that do not fit, .*fc1"
    ):
        model_on(base)
    broken = {name: torch.full_like(w, torch.nan) for name, w in weights.items()}
    save_file(broken, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"text_encoder: config and weights must .*, got .* with NaN or infinity"):
        model_on(base)
    save_file({**weights, "text_model.embeddings.position_ids": torch.arange(12)[None]}, file, {"format": "pt"})
    model_on(base)  # older files hold what is computed anew
    save_file(weights, file, {"format": "pt"})
    (base / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer must have all its files, 2 words found"):
        model_on(base)
