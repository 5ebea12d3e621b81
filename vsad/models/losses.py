"""The losses of VALDM: predict the noise, agree with the neighboring views, refine toward what is common.

Each is a mean over the samples of a batch, so a batch's loss is the mean of its parts'.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.geometry import scale_homography
from vsad.models.frm import Aligned
from vsad.ops import homography_warp

# Keeps the cosine of two flat windows at zero; features have about unit deviation.
FLAT = 1e-4


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
        total = (disagreement * seen).sum((1, 2, 3))  # (B,)
        losses.append((total / seen.sum((1, 2, 3)).clamp(min=1)).mean())
    return torch.stack(losses).mean()


def refine_loss(refined: list[Tensor], target: list[Tensor]) -> Tensor:
    """How far refined features of noisy latents are from the features of clean ones, relative to those.

    ``mean over levels of |F'(z_t) - F(z_0)|^2 / |F(z_0)|^2``; the target is not a learner. What the noise took from
    one view its neighbors still have.
    """
    losses = []
    for r, t in zip(refined, target):
        error = (r - t.detach()).square().mean((1, 2, 3, 4))  # (B,)
        losses.append((error / t.detach().square().mean((1, 2, 3, 4))).mean())
    return torch.stack(losses).mean()


def homography_loss(features: Tensor, homographies: list[Tensor], neighbors: Tensor, *, window: int = 5) -> Tensor:
    """How much targets disagree with what homographies bring over from their neighbors, without labels.

    ``mean over stages, slots and target pixels p of 1 - cos(p)``, where ``cos(p)`` is the cosine of the target's and
    the neighbor's features in the window around p, less their means in it: gain and offset do not matter. Where the
    neighbor does not see p the cosine is 0, as it is on average for unrelated surfaces: no homography gains by driving
    the overlap to nothing, and none by stretching it over what does not match. The features are not learned by this
    loss, lest they become alike everywhere.

    Convention: stage i of I compares at ``1 / 2^(I-1-i)`` of the features' resolution, so that what is far off at first
        still has a slope to follow. Homographies map target pixels to source pixels of the features.

    Args:
        features: ``(B, V, C, h, w)``, of values that do not depend on how a camera is turned: of Gaussian derivatives
            the smoothed images alone.
        homographies: of each stage ``(B, V, N, 3, 3)``, coarse to fine, as ``HomographyNet`` returns them.
        neighbors: ``(V, N)`` int64, -1 for an empty slot, which does not count.
        window: odd side of the window, in pixels of the stage.

    Returns:
        The loss, between 0 and 2, and 0 where no view has a neighbor; differentiable in the homographies.
    """
    B, V, _, h, w = features.shape
    N = neighbors.shape[1]
    occupied = (neighbors >= 0).flatten().repeat(B).to(features)  # (S,), S = B V N slots
    share = occupied / occupied.sum().clamp(min=1)
    losses = []
    for i, homography in enumerate(homographies):
        level = F.avg_pool2d(features.detach().flatten(0, 1), 2 ** (len(homographies) - 1 - i)).unflatten(0, (B, V))
        size = (level.shape[-2], level.shape[-1])
        target = level.repeat_interleave(N, 1).flatten(0, 1)
        source = level[:, neighbors.clamp(min=0).flatten()].flatten(0, 1)
        H = scale_homography(homography, (h, w), size).flatten(0, 2)
        brought, seen = homography_warp(source, H.to(source.dtype), return_mask=True)
        disagreement = 1 - window_cosine(target, brought, seen[:, None], window).mean((1, 2, 3))  # (S,)
        losses.append((share * disagreement).sum())
    return torch.stack(losses).mean()


def window_cosine(f: Tensor, g: Tensor, seen: Tensor, window: int) -> Tensor:
    """Cosine of f and g ``(S, C, h, w)`` over windows and channels, ``(S, 1, h, w)``; 0 where g is not seen."""

    def average(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)

    f, g = ((x - average(x)) * seen for x in (f, g))
    dot, ff, gg = (average((a * b).sum(1, keepdim=True)) for a, b in ((f, g), (f, f), (g, g)))
    return seen * dot / (ff * gg + FLAT).sqrt()


def adversarial_loss(fake: list[Tensor]) -> Tensor:
    """What the model pays where an adversary tells its features from real ones: ``-mean(D(fake))`` over the levels.

    Args:
        fake: scores of refined features of noisy latents, one of any shape for each level.
    """
    return -torch.stack([score.mean() for score in fake]).mean()


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """The adversary's hinge loss, ``mean(max(0, 1 - D(real))) + mean(max(0, 1 + D(fake)))`` over the levels.

    It is 2 for an adversary that knows nothing, and 0 for one that is sure of everything.

    Args:
        real: scores of features of clean latents, one of any shape for each level.
        fake: scores of refined features of noisy ones.
    """
    losses = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake)]
    return torch.stack(losses).mean()


def reconstruction_loss(image: Tensor, target: Tensor) -> Tensor:
    """What an autoencoder is trained by: ``|x - y| + |dx/du - dy/du| + |dx/dv - dy/dv|``, each a mean.

    The differences of neighboring pixels along columns u and rows v keep edges sharp, which a mean absolute error
    alone would blur.

    Args:
        image, target: ``(B, 3, H, W)``.
    """
    difference = image - target
    return difference.abs().mean() + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
