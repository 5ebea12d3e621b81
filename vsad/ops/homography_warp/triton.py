"""Launcher of the Triton kernels in ``kernels/homography_warp``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vsad.kernels.homography_warp import warp

from .call import WarpCall


def forward(call: WarpCall) -> tuple[Tensor, Tensor]:
    launch: Any = warp.forward
    result: tuple[Tensor, Tensor] = launch(*call)
    return result


def backward(
    call: WarpCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    launch: Any = warp.backward
    result: tuple[Tensor, Tensor] = launch(*grads, call.input, call.homography, call.mode, call.padding, needs)
    return result
