"""The models that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from vsad.config import parse_config
from vsad.models.config import VALDMConfig
from vsad.models.derivative_config import CONFIG, LATENTS


def tiny() -> VALDMConfig:
    """A model that trains in a minute on two CPU cores: 64 x 64 latents of 256 x 256 images."""
    return VALDMConfig(vae=CONFIG, unet=_unet(["DownBlock2D"] * 3, ["UpBlock2D"] * 3, [32, 48, 64], 1))


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
        "in_channels": LATENTS,
        "out_channels": LATENTS,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": up,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
    }


PRESETS = {"tiny": tiny, "small": small, "base": base, "sd": sd}


def model_config(preset: str, changes: Mapping[str, Any] | None = None) -> VALDMConfig:
    """The configuration of a preset with other values of some fields, as a file of ``vsad`` gives them.

    A mapping, such as the arguments of the UNet, is changed entry by entry.

    Raises:
        ValueError: there is no such preset, or a change is not what it must be; the message names it.
    """
    if preset not in PRESETS:
        raise ValueError(f"model: preset must be one of {list(PRESETS)}, got {preset!r}; choose one of them")
    fields = asdict(PRESETS[preset]())
    for name, value in (changes or {}).items():
        inside = isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
        fields[name] = {**fields[name], **value} if inside else value
    return parse_config(VALDMConfig, fields, inside="model.")
