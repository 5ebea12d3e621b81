"""What VALDM adds to a latent diffusion model, as one module that is saved and loaded by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from vsad.config import parse_config
from vsad.models.config import VALDMConfig
from vsad.models.frm import FRM
from vsad.models.homography_net import HomographyNet
from vsad.models.homography_weights import WIDTH
from vsad.models.mvam import MVAM, zero_


class MultiViewAdapter(ModelMixin, ConfigMixin):
    """The modules that make a latent diffusion model of single pictures one of several views.

    Every module starts as one that changes nothing, so a pretrained model predicts what it did; ``components.adapter``
    gives a HomographyNet the weights that come with vsad where there are such.

    Args:
        valdm: fields of the ``VALDMConfig``.
        latent_channels: of the autoencoder.
        stage_channels: of the UNet's stages, by their names.
        time_channels: of the UNet's embedding of time, to which a class's is added.
        context_shape: ``(K, T, D)`` of the UNet's cross-attention input, for one or all categories; None without it.
        vae_is_tuned: whether the autoencoder was trained here.
        base_marks: by which the parts of a base are known again, by their names; None where there is no base.
        scale, shift: by which the autoencoder's latents became those of a pretrained UNet, ``scale (x - shift)``.
    """

    _supports_gradient_checkpointing = True  # of diffusers' ``enable_gradient_checkpointing``
    latent_mean: Tensor
    latent_deviation: Tensor

    @register_to_config
    def __init__(
        self,
        valdm: Mapping[str, Any],
        latent_channels: int,
        stage_channels: Mapping[str, int],
        time_channels: int,
        context_shape: tuple[int, int, int] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        vae_is_tuned: bool = False,
        base_marks: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        config = self.valdm
        for name in ("align_stages", "feature_stages"):
            unknown = set(getattr(config, name)) - set(stage_channels)
            if unknown:
                raise ValueError(f"model: {name} must be of {list(stage_channels)}, got {sorted(unknown)}")
        for stage in config.align_stages:
            if stage_channels[stage] % config.heads:
                raise ValueError(
                    f"model: heads must divide the channels of every stage that is aligned, {stage_channels[stage]} of "
                    f"{stage}, got {config.heads}; choose another number"
                )
        self.register_buffer("latent_mean", torch.full((latent_channels, 1, 1), shift))
        self.register_buffer("latent_deviation", torch.full((latent_channels, 1, 1), 1 / scale))
        self.register_buffer("context", None if context_shape is None else torch.zeros(tuple(context_shape)))
        self.mvams = nn.ModuleDict(
            {stage: MVAM(stage_channels[stage], config.heads, config.window) for stage in config.align_stages}
        )
        refined = config.feature_stages if config.refine else ()
        self.frms = nn.ModuleDict({stage: FRM(stage_channels[stage]) for stage in refined})
        self.class_embedding: nn.Module | None = None
        if config.conditioning == "class":
            self.class_embedding = zero_(nn.Embedding(len(config.categories), time_channels))
        self.homography_net: HomographyNet | None = None
        if config.homographies in ("refined", "learned"):
            self.homography_net = HomographyNet(latent_channels, width=WIDTH, search=config.homographies == "learned")

    @property
    def valdm(self) -> VALDMConfig:
        """The configuration of the whole model."""
        return parse_config(VALDMConfig, self.config["valdm"])
