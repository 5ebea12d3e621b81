"""An autoencoder that is useful before any training: AutoencoderKL set to Gaussian derivatives of 4 x 4 pixel blocks.

No pretrained weights can be assumed at a station without a network, and minutes of training give a blurred, colorless
latent. A fixed lapped transform of local structure, which the UNet then learns on, keeps what defects are made of.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vsad.models.derivative_config import (
    BLOCK,
    CHROMA_SIGMA,
    COEFFICIENTS,
    COLORS,
    CONFIG,
    LATENTS,
    LUMA_SIGMAS,
    ORDERS,
)
from vsad.models.mvam import zero_

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@torch.no_grad()
def derivative_vae() -> AutoencoderKL:
    """Make an AutoencoderKL whose encoder computes Gaussian derivatives: 12 of luma, 6 of chroma, quarter size.

    The encoder is exact, not approximate: residual branches are zero, so a block is its shortcut; the
    stride-2 convolutions move 2 x 2 pixels into channels and the second applies a DCT; the last convolution sums DCT
    coefficients of 3 x 3 blocks into the derivatives. The activation before it is undone by ``silu(x) - silu(-x) = x``:
    every coefficient is carried with both signs, whose mean is zero, so the last group norm only divides an image by
    the root mean square of its coefficients, a correction of exposure. The decoder is left as diffusers initializes it.
    """
    from diffusers import AutoencoderKL  # it takes seconds to import

    vae = AutoencoderKL(**CONFIG)
    encoder = vae.encoder
    for resnet in [r for block in encoder.down_blocks for r in block.resnets] + list(encoder.mid_block.resnets):
        zero_(resnet.conv2)
    _identity(encoder.conv_in)
    _space_to_depth(encoder.down_blocks[0].downsamplers[0].conv, 3)
    _identity(encoder.down_blocks[1].resnets[0].conv_shortcut)
    second = encoder.down_blocks[1].downsamplers[0].conv
    _space_to_depth(second, 12)
    dct = _block_dct()
    signed = torch.cat([dct, -dct]).to(second.weight)  # (48, 48)
    second.weight.copy_(torch.einsum("oc,cihw->oihw", signed, second.weight))

    zero_(encoder.conv_out)
    filters = _derivatives()  # (18, 24, 3, 3)
    encoder.conv_out.weight[:LATENTS, :COEFFICIENTS] = filters
    encoder.conv_out.weight[:LATENTS, COEFFICIENTS:] = -filters
    encoder.conv_out.bias[LATENTS:] = -20  # the logarithm of a variance that is next to none: latents without noise
    _identity(vae.quant_conv)
    return vae


def _identity(conv: nn.Conv2d) -> None:
    """Make a convolution pass its input channels on as they are."""
    zero_(conv)
    middle = conv.kernel_size[0] // 2
    for i in range(min(conv.in_channels, conv.out_channels)):
        conv.weight[i, i, middle, middle] = 1


def _space_to_depth(conv: nn.Conv2d, used: int) -> None:
    """Output channel ``4 c + 2 dy + dx`` takes pixel (dy, dx) of every 2 x 2 of input channel c < ``used``."""
    zero_(conv)
    for c in range(used):
        for dy in range(2):
            for dx in range(2):
                conv.weight[4 * c + 2 * dy + dx, c, dy, dx] = 1


def _dct() -> Tensor:
    """Orthonormal DCT-II of 4 samples: rows are frequencies."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    rows = torch.cos(math.pi * (n + 0.5) * n[:, None] / BLOCK) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return rows


def _block_dct() -> Tensor:
    """``(24, 48)``: from the channels that two space-to-depth stages leave to luma and chroma coefficients."""
    dct = _dct()
    color = torch.tensor(COLORS, dtype=torch.float64)
    color = color / color.norm(dim=1, keepdim=True)
    full = torch.einsum("kr,uy,vx->kuvryx", color, dct, dct)  # (3, 4, 4, 3, 4, 4)
    chosen = torch.cat([full[0].flatten(0, 1), full[1:, :2, :2].flatten(0, 2)])  # (24, 3, 4, 4)
    # pixel (y, x) of a block is, after both stages, channel 16 r + 4 (2 (y % 2) + x % 2) + 2 (y // 2) + x // 2
    chosen = chosen.unflatten(2, (2, 2)).unflatten(4, (2, 2))  # (24, r, y // 2, y % 2, x // 2, x % 2)
    return chosen.permute(0, 1, 3, 5, 2, 4).flatten(1).float()


def _derivatives() -> Tensor:
    """``(18, 24, 3, 3)``: Gaussian derivatives about a block's middle, as weights of 3 x 3 blocks' coefficients."""
    dct = _dct()

    def line(sigma: float, order: int) -> Tensor:
        """``(4, 3)``: one dimension of a filter, as (frequency, block)."""
        return dct @ gaussian_derivative(sigma, order).view(3, BLOCK).T

    filters = torch.zeros(LATENTS, COEFFICIENTS, 3, 3, dtype=torch.float64)
    row = 0
    for sigma in LUMA_SIGMAS:
        for along_y, along_x in ORDERS:
            luma = torch.einsum("ub,vc->uvbc", line(sigma, along_y), line(sigma, along_x))
            filters[row, :16] = luma.flatten(0, 1)
            row += 1
    for chroma in range(2):
        for along_y, along_x in ORDERS[:3]:
            low = torch.einsum("ub,vc->uvbc", line(CHROMA_SIGMA, along_y)[:2], line(CHROMA_SIGMA, along_x)[:2])
            filters[row, 16 + 4 * chroma : 20 + 4 * chroma] = low.flatten(0, 1)
            row += 1
    return filters.float()


def gaussian_derivative(sigma: float, order: int) -> Tensor:
    """``(12,)`` float64: one dimension of a scale-normalized derivative about the middle of three blocks."""
    t = torch.arange(3 * BLOCK, dtype=torch.float64) - (3 * BLOCK - 1) / 2
    gauss = torch.exp(-0.5 * (t / sigma) ** 2)
    gauss = gauss / gauss.sum()
    return (gauss, -t / sigma * gauss, ((t / sigma) ** 2 - 1) * gauss)[order]
