"""VALDM, the view-aligned latent diffusion model: a UNet that denoises all views at once and aligns as it goes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from vsad.models.frm import FRM, align_features
from vsad.models.mvam import MVAM
from vsad.rig import Rig


@dataclass(frozen=True)
class VALDMConfig:
    """What a VALDM is made of. The paper's own values are not at hand: these are our choices.

    Args:
        vae, unet: arguments of diffusers' ``AutoencoderKL`` and ``UNet2DConditionModel``.
        align_stages: decoder stages followed by an MVAM, 0 is the coarsest.
        feature_stages: decoder stages whose features are refined and scored.
        heads, window: of every MVAM.
        refine: whether an FRM refines every feature stage.
    """

    vae: dict[str, Any] = field(default_factory=dict)
    unet: dict[str, Any] = field(default_factory=dict)
    align_stages: tuple[int, ...] = (0, 1, 2)
    feature_stages: tuple[int, ...] = (0, 1, 2)
    heads: int = 4
    window: int = 3
    refine: bool = True


def tiny() -> VALDMConfig:
    """A model that trains in minutes on two CPU cores: 64 x 64 latents of 256 x 256 images."""
    return VALDMConfig(
        vae={
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [16, 32, 32],
            "layers_per_block": 1,
            "latent_channels": 8,
            "norm_num_groups": 8,
            "mid_block_add_attention": False,
        },
        unet={
            "in_channels": 8,
            "out_channels": 8,
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


class VALDM(nn.Module):
    """View-aligned latent diffusion model, with a feature refinement module per level."""

    def __init__(self, config: VALDMConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = AutoencoderKL(**config.vae)
        self.unet = UNet2DConditionModel(**config.unet)
        self.scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear", clip_sample=False)
        channels = [block.resnets[-1].out_channels for block in self.unet.up_blocks]
        self.mvams = nn.ModuleDict({str(i): MVAM(channels[i], config.heads, config.window) for i in config.align_stages})
        stages = config.feature_stages if config.refine else ()
        self.frms = nn.ModuleDict({str(i): FRM(channels[i]) for i in stages})

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, V, 3, H, W)`` in [0, 1] to scaled latents ``(B, V, c, h, w)``."""
        latents = self.vae.encode(2 * images.flatten(0, 1) - 1).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).unflatten(0, images.shape[:2])

    def forward(self, latents: Tensor, timesteps: Tensor, rig: Rig) -> tuple[Tensor, list[Tensor]]:
        """Predict the noise in all views' latents.

        Args:
            latents: noisy, ``(B, V, c, h, w)``.
            timesteps: ``(B,)`` int64, one for all views of a sample.
            rig: of these V views.

        Returns:
            The noise ``(B, V, c, h, w)``, and the aligned decoder features ``(B, V, C, h_i, w_i)`` of the feature
            stages, coarse to fine.
        """
        B, V = latents.shape[:2]
        unet, x = self.unet, latents.flatten(0, 1)
        time = unet.time_embedding(unet.time_proj(timesteps.repeat_interleave(V)).to(x.dtype))
        x = unet.conv_in(x)
        skips = (x,)
        for block in unet.down_blocks:
            x, outputs = block(x, time)
            skips += outputs
        x = unet.mid_block(x, time)

        levels = []
        for i, block in enumerate(unet.up_blocks):
            count = len(block.resnets)
            x, skips = block(x, skips[-count:], time), skips[:-count]
            if str(i) in self.mvams:
                x = self.mvams[str(i)](x.unflatten(0, (B, V)), rig).flatten(0, 1)
            if i in self.config.feature_stages:
                levels.append(x.unflatten(0, (B, V)))
        noise = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return noise.unflatten(0, (B, V)), levels

    def refine(self, levels: list[Tensor], rig: Rig) -> list[Tensor]:
        """Every level's features after its FRM (unchanged without FRMs)."""
        if not self.config.refine:
            return levels
        return [frm(level, align_features(level, rig)[0]) for frm, level in zip(self.frms.values(), levels)]
