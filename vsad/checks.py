"""Refuses images that a part of vsad would read wrongly in silence, and converts those that say what they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Interpolation may overshoot a little.
_SLACK = 0.01


def as_images(owner: str, images: Tensor | np.ndarray, shape: Sequence[int | str]) -> Tensor:
    """Images as a float32 tensor in [0, 1], of whatever says what it holds: bytes, other floating point, arrays.

    Arguments and errors are those of ``check_images``, which refuses all else.
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))  # which an array with negative strides is not
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        images = images.float() / 255
    check_images(owner, images, shape)
    return images.detach().float()


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
