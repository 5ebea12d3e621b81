"""Launcher of the Triton kernels in ``kernels/prototype_distance``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vsad.kernels.prototype_distance import search

from .call import DistanceCall


def forward(call: DistanceCall) -> tuple[Tensor, Tensor]:
    launch: Any = search.forward
    result: tuple[Tensor, Tensor] = launch(*call)
    return result


def backward(
    call: DistanceCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    launch: Any = search.backward
    result: tuple[Tensor, Tensor] = launch(*grads, call.features, call.prototypes, *outputs, call.metric, needs)
    return result
