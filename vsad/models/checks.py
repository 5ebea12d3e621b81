"""What a VALDM refuses of its inputs, where torch's own errors would come late or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsad.geometry import Rig
from vsad.geometry.checks import divisible

if TYPE_CHECKING:
    from vsad.models.valdm import VALDM


def check_inputs(
    model: VALDM, latents: Tensor, rig: Rig, timesteps: Tensor | None = None, category: Tensor | None = None
) -> None:
    """Refuse what does not fit a model.

    Time steps and categories are looked at on the CPU only: elsewhere that would wait for the device.

    Args:
        model: whose inputs they are.
        latents: ``(B, V, c, h, w)``.
        rig: of the V views.
        timesteps: ``(B,)`` int64; None where there are none.
        category: ``(B,)`` int64; None for the first.

    Raises:
        TypeError: something is no tensor or rig, or has another dtype.
        ValueError: a shape or a value does not fit; the message says which and what to do.
    """
    if not isinstance(rig, Rig):
        raise TypeError(f"VALDM: rig must be a vsad.geometry.Rig, got {type(rig).__name__}; calibrate or load one")
    _check_latents(model, latents, rig)
    if timesteps is not None:
        _check_numbers("timesteps", timesteps, len(latents), model.scheduler.config["num_train_timesteps"])
    if category is not None:
        _check_numbers("category", category, len(latents), max(1, len(model.config.categories)))


def check_aspect(name: str, size: tuple[int, int], rig: Rig) -> None:
    """Refuse features that cannot be of the rig's images, resized alike in both directions; ``name`` says whose."""
    (h, w), (height, width) = size, rig.size
    if h * width != w * height:
        raise ValueError(
            f"{name} must have the aspect of the rig's images, {height} x {width}, got {h} x {w}; scale the rig as the "
            "images were resized"
        )


def check_picture_size(model: VALDM, size: tuple[int, int]) -> None:
    """Refuse pictures that are too small for a model's HomographyNet, before any of them is read.

    Args:
        model: that will learn from them.
        size: ``(height, width)`` of the pictures.

    Raises:
        ValueError: a side is too small, or not divisible as often as the network halves it.
    """
    net = model.adapter.homography_net
    if net is None:
        return
    pixels = 2 ** (len(model.vae.config["block_out_channels"]) - 1)  # to a side of a latent
    factor, least = net.factor * pixels, net.least * pixels
    if any(side % factor or side < least for side in divisible(size, model.divisor)):
        rule = f"more than {least - model.divisor} pixels"
        if model.divisor % factor:
            rule = f"a multiple of {factor} pixels, {least} at least,"
        raise ValueError(
            f"size: pictures must be {rule} high and wide where homographies are {model.config.homographies}, got "
            f"{size[0]} x {size[1]}; choose a larger size, or model.homographies=fixed"
        )


def _check_latents(model: VALDM, latents: Tensor, rig: Rig) -> None:
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        kind = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
        raise TypeError(f"VALDM: latents must be a tensor of floating point, got {kind}; encode images")
    dtype = model.unet.dtype
    if latents.dtype != dtype and not torch.is_autocast_enabled(latents.device.type):
        raise TypeError(f"VALDM: latents must be {dtype}, as the model is, got {latents.dtype}; convert either")
    views, channels = len(rig.views), model.adapter.config["latent_channels"]
    factor = 2 ** (len(model.unet.config["block_out_channels"]) - 1)
    shape = list(latents.shape)
    if len(shape) != 5 or shape[0] < 1 or shape[1:3] != [views, channels]:
        raise ValueError(
            f"VALDM: latents must be [B {views} {channels} h w] with B at least 1, of the rig's views and the "
            f"autoencoder's channels, got {shape}; encode images of these views"
        )
    h, w = latents.shape[-2:]
    if not h or not w or h % factor or w % factor:
        raise ValueError(f"VALDM: latents must have sides divisible by {factor}, got {shape}; resize the images")
    check_aspect("VALDM: latents", (h, w), rig)


def _check_numbers(name: str, numbers: Tensor, count: int, end: int) -> None:
    """Refuse what is not ``count`` integers from 0 to below ``end``."""
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.int64:
        kind = numbers.dtype if isinstance(numbers, Tensor) else type(numbers).__name__
        raise TypeError(f"VALDM: {name} must be an int64 tensor, got {kind}; convert it")
    if numbers.shape != (count,):
        raise ValueError(f"VALDM: {name} must be [{count}], one for each sample, got {list(numbers.shape)}; repeat it")
    if torch.compiler.is_compiling() or numbers.device.type != "cpu":
        return
    low, high = (int(number) for number in torch.aminmax(numbers))
    if low < 0 or high >= end:
        raise ValueError(f"VALDM: {name} must be from 0 to {end - 1}, got {low if low < 0 else high}; choose another")
