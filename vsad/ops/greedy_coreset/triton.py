"""Launcher of the Triton kernels in ``kernels/greedy_coreset``."""

from __future__ import annotations

from torch import Tensor

from vsad.kernels.greedy_coreset import select

from .call import CoresetCall


def forward(call: CoresetCall) -> tuple[Tensor]:
    return (select.forward(call.features, call.size, call.first_pick()),)
