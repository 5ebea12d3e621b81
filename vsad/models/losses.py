"""The losses of VALDM: predict the noise, agree with the neighboring views, refine toward what is common."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.models.frm import Aligned


def diffusion_loss(prediction: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, the reconstruction term."""
    return F.mse_loss(prediction, noise)


def alignment_loss(levels: list[Tensor], aligned: list[Aligned]) -> Tensor:
    """Cosine disagreement of features and their aligned neighbors, ``mean(1 - cos(F, aligned))`` where seen.

    The neighbors are targets, not learners: a feature moves toward what the other views see of its surface point.
    """
    losses = []
    for level, (feature, seen) in zip(levels, aligned):
        disagreement = 1 - F.cosine_similarity(level, feature.detach(), dim=2)  # (B, V, H, W)
        losses.append((disagreement * seen).sum() / seen.sum().clamp(min=1))
    return torch.stack(losses).mean()


def refine_loss(refined: list[Tensor], target: list[Tensor]) -> Tensor:
    """How far refined features of noisy latents are from the features of clean ones, relative to those.

    ``mean over levels of |F'(z_t) - F(z_0)|^2 / |F(z_0)|^2``; the target is not a learner. What the noise took from
    one view its neighbors still have.
    """
    losses = [F.mse_loss(r, t.detach()) / t.detach().square().mean() for r, t in zip(refined, target)]
    return torch.stack(losses).mean()
