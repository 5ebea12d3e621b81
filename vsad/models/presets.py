"""The models that have a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from vsad.models import derivative_vae
from vsad.models.config import VALDMConfig
from vsad.models.valdm import VALDM


def tiny() -> VALDMConfig:
    """A model that trains in a minute on two CPU cores: 64 x 64 latents of 256 x 256 images."""
    return VALDMConfig(vae=derivative_vae.CONFIG, unet=_unet(["DownBlock2D"] * 3, ["UpBlock2D"] * 3, [32, 48, 64], 1))


def small() -> VALDMConfig:
    """A model that trains in an hour on a CPU or in minutes on a GPU: twice as wide and as deep."""
    return replace(
        tiny(),
        unet=_unet(["DownBlock2D"] * 3, ["UpBlock2D"] * 3, [64, 128, 192], 2),
        align_stages=("mid", "up0", "up1"),
    )


def base() -> VALDMConfig:
    """A model for one GPU: attention at the two coarser resolutions, features of two stages."""
    down, up = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
    return replace(
        tiny(),
        unet=_unet(down, up, [128, 256, 384], 2),
        align_stages=("mid", "up0", "up1"),
        feature_stages=("up1", "up2"),
        heads=8,
    )


def sd() -> VALDMConfig:
    """Stable Diffusion 1.5 with what VALDM adds, which alone is trained; name your own folder or hub id as ``base``."""
    return VALDMConfig(
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        tune="new",
        align_stages=("mid", "up0", "up1"),
        feature_stages=("up1", "up2"),
        heads=8,
    )


def _unet(down: list[str], up: list[str], channels: list[int], layers: int) -> dict[str, Any]:
    return {
        "in_channels": derivative_vae.LATENTS,
        "out_channels": derivative_vae.LATENTS,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": up,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
    }


PRESETS = {"tiny": tiny, "small": small, "base": base, "sd": sd}


def new_model(preset: str, seed: int, change: Callable[[VALDMConfig], VALDMConfig] = lambda config: config) -> VALDM:
    """Make a model with freshly drawn weights.

    Args:
        preset: a name in ``PRESETS``.
        seed: seed of the weights; torch's own generator is left as it is.
        change: makes another configuration of the preset's.

    Raises:
        ValueError: there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"train: preset must be one of {list(PRESETS)}, got {preset!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VALDM(change(PRESETS[preset]()))
