"""Small pipelines of the real classes in the layouts of Stable Diffusion 1.5 and 2.1, with random weights."""

import json
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from vsad.models import VALDM, sd

WORDS = ("a", "photo", "of", "cable", "screw")


def save_pipeline(folder, layout="1.5", variant=None, safetensors=True):
    """Write a random pipeline: four UNet levels, latents of an eighth, a text encoder and a tokenizer of five words."""
    torch.manual_seed(1)
    second = layout == "2.1"
    width = 16
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 16, 16], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=[8, 16, 16, 16], layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=width, attention_head_dim=[2, 4, 4, 4] if second else 4, use_linear_projection=second,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    scheduler = (
        DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **noise) if second else PNDMScheduler(**noise)
    )
    pipeline = StableDiffusionPipeline(
        vae, text, _tokenizer(folder), unet, scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "pipeline", variant=variant, safe_serialization=safetensors)
    return folder / "pipeline"


def model_on(folder, **changes):
    """A model on such a pipeline, by the preset ``sd``."""
    return VALDM.from_pretrained(folder, config=replace(sd(), heads=4, **changes))


def _tokenizer(folder):
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = {token: i for i, token in enumerate([*special, *(f"{word}</w>" for word in WORDS)])}, []
    for word in WORDS:  # every word grows letter by letter
        letters = [*word[:-1], f"{word[-1]}</w>"]
        built = letters[0]
        for letter in letters[1:]:
            merges.append(f"{built} {letter}")
            built += letter
        for token in (*letters, *(m.replace(" ", "") for m in merges)):
            vocabulary.setdefault(token, len(vocabulary))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)
