"""The memory layout of outputs: chosen once, for the fake kernels and the real ones alike."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Whether the channels of ``(*, C, H, W)`` lie side by side in memory."""
    return t.stride(-3) == 1 and t.shape[-3] > 1


def empty_like_layout(
    like: Tensor, channels: int, dtype: torch.dtype | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """An uninitialized ``(*, channels, H, W)`` tensor, channels last in memory when ``like`` is, else contiguous.

    ``(H, W)`` is ``size``, or that of ``like``.
    """
    batch = like.shape[:-3]
    height, width = like.shape[-2:] if size is None else size
    if is_channels_last(like):
        return like.new_empty((*batch, height, width, channels), dtype=dtype).movedim(-1, -3)
    return like.new_empty((*batch, channels, height, width), dtype=dtype)


def copy_like_layout(like: Tensor, t: Tensor) -> Tensor:
    """``t (*, channels, H, W)`` in the dtype of ``like``, in memory as ``empty_like_layout`` lays it out."""
    t = t.to(like.dtype)
    if is_channels_last(like):
        return t.movedim(-3, -1).clone(memory_format=torch.contiguous_format).movedim(-1, -3)
    return t.clone(memory_format=torch.contiguous_format)


def in_layout_of(like: Tensor, grad: Tensor) -> Tensor:
    """``grad (B, V, H, W, C)`` as the gradient of ``like``: its shape, dtype and memory layout."""
    result = empty_like_layout(like, like.shape[2])
    grad = grad.movedim(-1, 2)
    if grad.dtype == result.dtype and grad.stride() == result.stride():
        return grad
    return result.copy_(grad)
