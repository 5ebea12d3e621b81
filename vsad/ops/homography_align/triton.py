"""Launcher of the Triton kernels in ``kernels/homography_align``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vsad.kernels.homography_align import backward as backward_kernels
from vsad.kernels.homography_align import forward as forward_kernels

from .call import AlignCall


def forward(call: AlignCall) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = forward_kernels.forward(*call[:-1])
    return result


def backward(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    launch: Any = backward_kernels.backward
    result: tuple[Tensor, ...] = launch(*grads, *call[:6], *outputs, *call[6:], needs)
    return result
