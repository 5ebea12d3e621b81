"""Features in which light counts for nothing: derivatives of pictures of zero local mean and unit local contrast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.checks import check_images
from vsad.models.derivative_vae import BLOCK, CHROMA_SIGMA, COLORS, LUMA_SIGMAS, ORDERS, gaussian_derivative
from vsad.models.valdm import normalize

# In pixels: several times the derivatives' reach, so that a defect does not hide in its own mean.
WINDOW = 17
# In shares of full scale: contrast below it is noise, and is not amplified.
FAINT = 0.03


class LocalContrast(nn.Module):
    """What ``derivative_vae`` computes, of pictures without their local brightness and contrast.

    ``x' = (x - m) / (c + 0.03)``: m is each color's mean over 17 x 17 pixels, c the deviation of all colors there. A
    shadow, a highlight's halo or a lens that is out of tune change m and c, and hardly x'; a crack or a wrong part
    changes x' as it changes x, a faint stain that is as large as the window does not.

    Shape: ``(V, 3, H, W) -> (V, 18, H / 4, W / 4)``.

    Example:
        >>> LocalContrast()(torch.rand(5, 3, 64, 64)).shape
        torch.Size([5, 18, 16, 16])
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", _filters(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The features ``(V, 18, H / 4, W / 4)`` of one sample's images in [0, 1]."""
        check_images("LocalContrast", images, ("V", 3, "H", "W"))
        difference = images - _mean(images)
        contrast = _mean(difference.square().mean(1, keepdim=True)).clamp(min=0).sqrt()
        margin = (self.filters.shape[-1] - BLOCK) // 2
        padded = F.pad(difference / (contrast + FAINT), [margin] * 4, mode="reflect")
        return normalize(F.conv2d(padded, self.filters, stride=BLOCK)[None])[0]


def _mean(images: Tensor) -> Tensor:
    """The mean over the window around every pixel, by sums of 2, 4, 8, ... pixels: pooling takes 15 times as long.

    Sums that run from the border, and their differences, take half as long again, and round eight times as much.
    """
    sums = F.pad(images, [WINDOW // 2] * 4, mode="reflect")
    for dim in (-1, -2):
        wide = sums
        for reach in (1, 2, 4, 8):
            count = wide.shape[dim] - reach
            wide = wide.narrow(dim, 0, count) + wide.narrow(dim, reach, count)
        count = wide.shape[dim] - 1
        sums = wide.narrow(dim, 0, count) + sums.narrow(dim, WINDOW - 1, count)  # 16 pixels and the last
    return sums / WINDOW**2


def _filters() -> Tensor:
    """``(18, 3, 12, 12)``: Gaussian derivatives of luma at two scales, and of both chromas."""
    color = torch.tensor(COLORS, dtype=torch.float64)
    color = color / color.norm(dim=1, keepdim=True)
    wanted = [(color[0], sigma, order) for sigma in LUMA_SIGMAS for order in ORDERS]
    wanted += [(chroma, CHROMA_SIGMA, order) for chroma in color[1:] for order in ORDERS[:3]]
    return torch.stack([
        torch.einsum("c,y,x->cyx", weights, gaussian_derivative(sigma, along_y), gaussian_derivative(sigma, along_x))
        for weights, sigma, (along_y, along_x) in wanted
    ]).float()  # fmt: skip
