"""What the model must beat: Gaussian derivatives of each view and a plain bank of them, without any other view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.checks import check_images
from vsad.detection.detection import Detection
from vsad.detection.memory import MemoryConfig, PrototypeMemory

SIGMAS = (1.0, 2.0, 4.0)
STRIDE = 4
ORDERS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))


def gaussian_derivatives(images: Tensor) -> Tensor:
    """Scale-normalized derivatives up to order 2 of every color at three scales, at a quarter of the size.

    Args:
        images: ``(V, 3, H, W)``.

    Returns:
        ``(V, 54, H // 4, W // 4)``.

    Source: the local jet (Koenderink and van Doorn, 1987).
    """
    check_images("gaussian_derivatives", images, ("V", 3, "H", "W"))
    features = []
    for sigma in SIGMAS:
        lines = [_line(sigma, order).to(images) for order in range(3)]
        radius = len(lines[0]) // 2
        padded = F.pad(images.flatten(0, 1)[:, None], [radius] * 4, mode="reflect")
        for along_y, along_x in ORDERS:
            x = F.conv2d(padded, lines[along_y].view(1, 1, -1, 1), stride=(STRIDE, 1))
            x = F.conv2d(x, lines[along_x].view(1, 1, 1, -1), stride=(1, STRIDE))
            features.append(x.view(*images.shape[:2], *x.shape[-2:]))
    return torch.cat(features, dim=1)


def _line(sigma: float, order: int) -> Tensor:
    """One dimension of a scale-normalized derivative of a Gaussian, out to 4 deviations."""
    t = torch.arange(-round(4 * sigma), round(4 * sigma) + 1) / sigma
    gauss = torch.exp(-0.5 * t.square())
    gauss = gauss / gauss.sum()
    return (gauss, t * gauss, (t.square() - 1) * gauss)[order]


class GaussianBank:
    """A bank per view of the Gaussian derivatives of normal images; a pixel's score is its distance to the nearest."""

    def __init__(self, features: Tensor, *, size: int = 2000, seed: int = 0) -> None:
        seen = torch.ones_like(features[:, :, 0], dtype=torch.bool)
        self.memory = PrototypeMemory.fit(features, seen, MemoryConfig(prototypes=size, parts=1, seed=seed))

    def __call__(self, images: Tensor) -> Detection:
        """Inspect one sample's ``images (V, 3, H, W)``."""
        return Detection.of(self.memory(gaussian_derivatives(images)), (images.shape[-2], images.shape[-1]))
