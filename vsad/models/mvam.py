"""MVAM, the multi-view alignment module: attend to where the same surface point lies in other views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vsad.models.projection import Projection
from vsad.ops import homography_align


class Norm(nn.GroupNorm):
    """A group norm of all channels and pixels together.

    Args:
        channels: C of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        # torch 2.13 crashes on the CPU in the backward pass of small channels-last inputs that need no gradient.
        return super().forward(x.contiguous() if torch.is_grad_enabled() and not x.requires_grad else x)


class MVAM(nn.Module):
    """Multi-view alignment module: ``F' = F + W_o a``, ``F'' = F' + FFN(F')``, ``a = homography_align(q, k, v)``.

    q, k and v are 1x1 projections of the normalized feature, made once per source pixel; every head has a learned
    bias over the window. Both output layers start at zero, so a new MVAM leaves a network unchanged.

    Args:
        channels: C of the features.
        heads: attention heads, a divisor of ``channels``.
        window: odd size of the window around a projected point, in feature pixels.

    Shape: ``(B, V, C, H, W), Projection -> (B, V, C, H, W)``.

    Source: ViewSense-AD (arXiv 2511.18766); an independent implementation.
    """

    gradient_checkpointing = False  # what ``enable_gradient_checkpointing`` of diffusers switches on

    def __init__(self, channels: int, heads: int = 4, window: int = 3) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = Norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.bias = nn.Parameter(torch.zeros(heads, window, window))
        self.out = zero_(nn.Conv2d(channels, channels, 1))
        self.feed_forward = nn.Sequential(
            Norm(channels),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.SiLU(),
            zero_(nn.Conv2d(2 * channels, channels, 1)),
        )

    def forward(self, feature: Tensor, projection: Projection) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpointed(self._forward, feature, projection)
        return self._forward(feature, projection)

    def _forward(self, feature: Tensor, projection: Projection) -> Tensor:
        x = feature.flatten(0, 1)
        x = x + self.out(self.attend(feature, projection).flatten(0, 1))
        x = x + self.feed_forward(x)
        return torch.unflatten(x, 0, feature.shape[:2])

    def attend(self, feature: Tensor, projection: Projection) -> Tensor:
        """What the neighbors show of every pixel's surface point, ``(B, V, C, H, W)``."""
        B, V, _, H, W = feature.shape
        q, k, v = self.qkv(self.norm(feature.flatten(0, 1))).unflatten(0, (B, V)).chunk(3, dim=2)
        homography, neighbors, _ = projection.at((H, W))
        aligned = homography_align(q, k, v, homography, neighbors, heads=self.heads, window=self.window, bias=self.bias)
        assert isinstance(aligned, Tensor)  # not (out, lse)
        return aligned


def zero_(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def checkpointed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """The function's value; what it computes on the way is not kept for the backward pass but computed again there."""
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False)
    return result
