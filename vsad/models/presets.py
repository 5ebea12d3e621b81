"""The models that have a name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vsad.models import derivative_vae
from vsad.models.valdm import VALDM, VALDMConfig


def tiny() -> VALDMConfig:
    """A model that trains in a minute on two CPU cores: 64 x 64 latents of 256 x 256 images."""
    return VALDMConfig(
        vae=derivative_vae.CONFIG,
        unet={
            "in_channels": derivative_vae.LATENTS,
            "out_channels": derivative_vae.LATENTS,
            "down_block_types": ["DownBlock2D"] * 3,
            "mid_block_type": "UNetMidBlock2D",
            "up_block_types": ["UpBlock2D"] * 3,
            "block_out_channels": [32, 48, 64],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
        },
    )


PRESETS = {"tiny": tiny}


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
