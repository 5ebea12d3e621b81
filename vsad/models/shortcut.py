"""Residual blocks that cost nothing where their branch is zero, as in the autoencoder of Gaussian derivatives."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


def skip_zero_branches(model: nn.Module) -> None:
    """Make every residual block of a model of diffusers a ``Shortcut``; its parameters and their names stay."""
    for block in model.modules():
        if type(block) is ResnetBlock2D:
            block.__class__ = Shortcut


class Shortcut(ResnetBlock2D):
    """A residual block that does not compute its branch where its last convolution is zero: the same sum, for less.

    Only on finite features, which its group norms and zeros would turn into NaN elsewhere; only where none of its
    weights is being trained; and only on the CPU, where looking at the weights of every call takes microseconds, and
    nothing is remembered that other weights could make wrong. Parameters and their names are diffusers' own.
    """

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **options: Any) -> Tensor:
        if not self.branch_is_zero():
            full: Tensor = super().forward(input_tensor, temb, *args, **options)
            return full
        shortcut = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return shortcut / self.output_scale_factor

    def branch_is_zero(self) -> bool:
        """Whether the block is its shortcut alone, and nobody needs to see more."""
        last = list(self.conv2.parameters())
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        resampled = self.upsample is not None or self.downsample is not None
        if trained or resampled or torch.compiler.is_compiling() or not all(p.is_cpu for p in last):
            return False
        return not any(p.any() for p in last)
