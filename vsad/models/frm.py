"""FRM, the feature refinement module, and the parameter-free alignment that feeds it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.models.mvam import Norm, checkpointed, zero_
from vsad.models.projection import Projection
from vsad.ops import homography_align

# Factor of the cosine similarities in the softmax: e^10 tells a match (1) from an unrelated patch (0).
SHARPNESS = 10.0


class Aligned(NamedTuple):
    """What the neighbors see: ``feature (B, V, C, H, W)`` and where any of them does, ``seen (B, V, H, W)`` bool."""

    feature: Tensor
    seen: Tensor


def align_features(feature: Tensor, projection: Projection, window: int = 3) -> Aligned:
    """What the neighboring views see at every pixel's surface point: the similar parts of their windows.

    ``a(p) = sum softmax(10 cos(F_i(p), F_j(.))) F_j(.)`` over the windows around p's projections.

    Args:
        feature: ``(B, V, C, H, W)``.
        projection: of the same V views; the gradient reaches its homographies.
        window: odd size of the windows.

    Returns:
        The aligned feature, the feature itself where no neighbor sees the point.
    """
    homography, neighbors, _ = projection.at((feature.shape[-2], feature.shape[-1]))
    unit = F.normalize(feature, dim=2)
    aligned, lse = homography_align(
        unit, unit, feature, homography, neighbors, window=window, scale=SHARPNESS, return_lse=True
    )
    seen = torch.isfinite(lse[:, :, 0])
    return Aligned(torch.where(seen[:, :, None], aligned, feature), seen)


class FRM(nn.Module):
    """Feature refinement module: ``F' = F + gate * delta``, both from ``[F, aligned, F - aligned]``.

    Depthwise-separable convolutions; the gate opens where the evidence of the other views should correct this one
    (a highlight, noise) and closes where it should not. The last layer starts at zero, so a new FRM is the identity.

    Args:
        channels: C of the features.

    Shape: ``(B, V, C, H, W), (B, V, C, H, W) -> (B, V, C, H, W)``.

    Source: ViewSense-AD (arXiv 2511.18766); an independent implementation.
    """

    gradient_checkpointing = False  # what ``enable_gradient_checkpointing`` of diffusers switches on

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            Norm(3 * channels),
            nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels),
            nn.Conv2d(3 * channels, channels, 1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        )
        self.gate = nn.Conv2d(channels, channels, 1)
        self.delta = zero_(nn.Conv2d(channels, channels, 1))

    def forward(self, feature: Tensor, aligned: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpointed(self._forward, feature, aligned)
        return self._forward(feature, aligned)

    def _forward(self, feature: Tensor, aligned: Tensor) -> Tensor:
        B = feature.shape[0]
        x = torch.cat([feature, aligned, feature - aligned], dim=2)  # (B, V, 3C, H, W)
        x = self.mix(x.flatten(0, 1))
        correction = torch.sigmoid(self.gate(x)) * self.delta(x)
        return feature + correction.unflatten(0, (B, -1))
