"""Refuses images that a part of vsad would read wrongly in silence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Interpolation may overshoot a little.
_SLACK = 0.01


def check_images(owner: str, images: Tensor, shape: Sequence[int | str]) -> None:
    """Refuse what is not a tensor of pictures in [0, 1].

    The values are looked at on the CPU only: elsewhere that would wait for the device.

    Args:
        owner: names the caller in errors.
        images: to be checked.
        shape: what theirs must be; a name stands for any size.

    Raises:
        TypeError: something other than a tensor of floating point.
        ValueError: another shape, or values that are not finite or not in [0, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{owner}: images must be a tensor of floating point, RGB in [0, 1], got {kind}; divide bytes by 255"
        )
    if images.ndim != len(shape) or any(
        isinstance(want, int) and want != have for want, have in zip(shape, images.shape)
    ):
        raise ValueError(
            f"{owner}: images must be [{' '.join(map(str, shape))}], got {list(images.shape)}; resize or choose them"
        )
    if torch.compiler.is_compiling() or images.device.type != "cpu" or not images.numel():
        return
    low, high = (float(end) for end in torch.aminmax(images.detach()))
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN is neither
        raise ValueError(f"{owner}: images must be finite and in [0, 1], got {low:.4g} to {high:.4g}; scale them")
