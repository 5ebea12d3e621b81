"""Encoding images with an autoencoder whose first layers are linear, and move blocks of pixels, as a single layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.models.shortcut import Shortcut


class Patches(NamedTuple):
    """A convolution of squares that do not overlap: ``weight (C, 3, s, s)`` with stride s, and ``bias (C,)``."""

    weight: Tensor
    bias: Tensor


def encode_mean(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The mean of the latents of ``images (N, 3, H, W)`` in [-1, 1], as ``vae.encode(images).latent_dist.mode()``.

    Where all layers down to the coarsest resolution are linear, as in the autoencoder of Gaussian derivatives, they are
    one convolution, and the last two layers are another, of which the half that is the variance is left out: the same
    up to rounding, for less. Only on the CPU, and where no weight is being trained; weights are looked at in every
    call, which takes microseconds, and nothing is remembered that other weights could make wrong.
    """
    encoder: Any = vae.encoder
    patches = None if _is_watched(vae, images) else _fold(encoder)
    if patches is None:
        mode: Tensor = vae.encode(images).latent_dist.mode()
        return mode
    x = F.conv2d(images, patches.weight, patches.bias, stride=patches.weight.shape[-1])
    x = encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(x)))
    weight, bias = encoder.conv_out.weight, encoder.conv_out.bias
    half = len(weight) // 2
    if vae.quant_conv is None:
        weight, bias = weight[:half], bias[:half]
    else:
        last = vae.quant_conv.weight[:half, :, 0, 0]
        weight, bias = torch.einsum("oc,cihw->oihw", last, weight), last @ bias + vae.quant_conv.bias[:half]
    return F.conv2d(x, weight, bias, padding=encoder.conv_out.padding)


def _is_watched(vae: AutoencoderKL, images: Tensor) -> bool:
    """Whether the layers must run one by one: they are trained or compiled, elsewhere, or called piece by piece."""
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in vae.encoder.parameters())
    return trained or torch.compiler.is_compiling() or not images.is_cpu or vae.use_slicing or vae.use_tiling


def _fold(encoder: Any) -> Patches | None:
    """All that stands before the middle block as one convolution; None where it is not one."""
    layers = [encoder.conv_in]
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            if not isinstance(resnet, Shortcut) or not resnet.branch_is_zero() or resnet.output_scale_factor != 1:
                return None
            layers += [] if resnet.conv_shortcut is None else [resnet.conv_shortcut]
        for downsampler in block.downsamplers or ():
            if getattr(downsampler, "norm", None) is not None or downsampler.padding != 0:
                return None
            layers.append(downsampler.conv)
    patches = None
    for layer in layers:
        square = _square(layer)
        if square is None:
            return None
        patches = square if patches is None else _after(square, patches)
    return patches


def _square(layer: nn.Module) -> Patches | None:
    """A convolution that reads nothing beyond its own square of ``stride`` pixels, so that it sees no padding."""
    if not isinstance(layer, nn.Conv2d) or layer.bias is None or layer.groups != 1 or layer.dilation != (1, 1):
        return None
    side, pad = layer.stride[0], int(layer.padding[0])
    if layer.stride != (side, side) or layer.padding != (pad, pad) or layer.kernel_size[0] < pad + side:
        return None
    inside = layer.weight[:, :, pad : pad + side, pad : pad + side]
    if layer.weight.count_nonzero() != inside.count_nonzero():
        return None
    return Patches(inside, layer.bias)


def _after(second: Patches, first: Patches) -> Patches:
    """Both, one after the other."""
    weight = torch.einsum("ocuv,ciyx->oiuyvx", second.weight, first.weight)
    return Patches(weight.flatten(4).flatten(2, 3), second.weight.sum((2, 3)) @ first.bias + second.bias)
