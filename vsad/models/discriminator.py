"""PatchDiscriminator, which tells features of clean latents from refined features of noisy ones, patch by patch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """PatchGAN: strided 4 x 4 convolutions that score every patch of a view by itself.

    ``D(x) = conv_3(f_2(f_1(x)))``, where ``f_1 = lrelu(conv_4(x))`` and ``f_i = lrelu(norm(conv_4(f_{i-1})))`` halve
    height and width and ``lrelu(x) = max(x, 0.2 x)``. A score sees ``5 x 2^L - 2`` pixels a side, 18 for L = 2
    layers. The norm is over a view's pixels and groups of channels, so no sample depends on its batch.

    Args:
        channels: C of the features.
        width: channels after the first layer; every further one doubles them.
        layers: L, the number of strided convolutions; height and width are at least 2^L.

    Shape: ``(B, V, C, H, W) -> (B, V, 1, H / 2^L, W / 2^L)``.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks (arXiv 1611.07004).
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers):
            wide = width * 2**i
            parts += [nn.Conv2d(wide // 2, wide, 4, stride=2, padding=1), nn.GroupNorm(8, wide), nn.LeakyReLU(0.2)]
        self.score = nn.Sequential(*parts, nn.Conv2d(width * 2 ** (layers - 1), 1, 3, padding=1))

    def forward(self, feature: Tensor) -> Tensor:
        scores: Tensor = self.score(feature.flatten(0, 1))
        return scores.unflatten(0, feature.shape[:2])


class Discriminator(nn.Module):
    """A PatchDiscriminator for each level of features.

    Args:
        channels: of every level, by its name.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.levels = nn.ModuleDict({name: PatchDiscriminator(width) for name, width in channels.items()})

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Scores ``(B, V, 1, h, w)`` of every level ``(B, V, C, H, W)``."""
        return [discriminate(level) for discriminate, level in zip(self.levels.values(), levels)]
