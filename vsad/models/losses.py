"""The losses of VALDM: predict the noise, agree with the neighbouring views, refine towards what is common."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.models.frm import align_features
from vsad.rig import Rig


def diffusion_loss(prediction: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, the reconstruction term."""
    return F.mse_loss(prediction, noise)


def alignment_loss(levels: list[Tensor], rig: Rig) -> Tensor:
    """Cosine disagreement of features and their aligned neighbours, ``mean(1 - cos(F, aligned))`` where seen.

    The neighbours are targets, not learners: a feature moves towards what the other views see of its surface point.

    Args:
        levels: features ``(B, V, C, H, W)``.
        rig: of the V views.
    """
    losses = []
    for level in levels:
        with torch.no_grad():
            aligned, seen = align_features(level, rig)
        disagreement = 1 - F.cosine_similarity(level, aligned, dim=2)  # (B, V, H, W)
        losses.append((disagreement * seen).sum() / seen.sum().clamp(min=1))
    return torch.stack(losses).mean()
