"""The losses of a batch, as one module, so that whatever wraps a network for training sees all that its pass does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vsad.geometry import Rig
from vsad.models import VALDM, align_features
from vsad.models.losses import alignment_loss, diffusion_loss, homography_loss, refine_loss
from vsad.training.config import TrainConfig


class Losses(NamedTuple):
    """What a pass gives.

    Args:
        terms: the weighted losses by name, each a number.
        real: features of the clean latents, by which an adversary judges, each ``(b, V, C, h, w)``; without gradient.
        fake: refined features of the noisy ones, likewise.
    """

    terms: dict[str, Tensor]
    real: list[Tensor]
    fake: list[Tensor]


class Objective(nn.Module):
    """The weighted losses of a VALDM on noisy latents ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e``.

    Args:
        model: to be trained.
        config: weights of the losses.
    """

    def __init__(self, model: VALDM, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, clean: Tensor, noise: Tensor, timesteps: Tensor, rig: Rig, category: int) -> Losses:
        """The losses of ``clean`` latents and ``noise (b, V, c, h, w)`` at ``timesteps (b,)``."""
        model, config = self.model, self.config
        categories = torch.full_like(timesteps, category)
        noisy = model.add_noise(clean, noise, timesteps)
        found = model(noisy, timesteps, rig, categories)
        terms = {"diffusion": diffusion_loss(found.prediction, model.target(clean, noise, timesteps))}
        if model.adapter.homography_net is not None:
            homographies = [projection.homography for projection in found.projections]
            neighbors = found.projections[-1].neighbors
            terms["homography"] = config.homography * homography_loss(model.appearance(clean), homographies, neighbors)
        if not found.levels or not (config.alignment or model.adapter.frms):
            return Losses(terms, [], [])
        with torch.no_grad():
            aligned = [align_features(level, found.projections[-1]) for level in found.levels]
        if config.alignment:
            terms["alignment"] = config.alignment * alignment_loss(found.levels, aligned)
        if not model.adapter.frms:
            return Losses(terms, [], [])
        with torch.no_grad():
            start = model(clean, torch.zeros_like(timesteps), rig, categories, features_only=True)
        refined = model.refine(found.levels, aligned)
        terms["refine"] = config.refine * refine_loss(refined, start.levels)
        return Losses(terms, start.levels, refined)
