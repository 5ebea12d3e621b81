"""Registration of greedy_coreset with torch: backends and fake outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.backends import cpu_backend, cuda_backend, triton_backend
from ..common.registration import register
from ..common.registry import Kernels, Operator
from .call import NAME, CoresetCall, check
from .reference import reference

GPU_POINTS = 1 << 28  # a 64-bit key of the GPU kernels holds 28 bits of index, 24 of them within a block


def _cpu() -> Kernels:
    from . import cpu

    return cpu


def _cuda() -> Kernels:
    from . import cuda

    return cuda


def _triton() -> Kernels:
    from . import triton

    return triton


def _gpu_why_not(call: CoresetCall) -> str | None:
    points = call.features.shape[0]
    return None if points < GPU_POINTS else f"takes fewer than 2^28 points, got {points}"


def _empty(call: CoresetCall) -> tuple[Tensor]:
    return (call.features.new_empty((call.size,), dtype=torch.int64),)


OPERATOR = Operator(
    name=NAME,
    call=CoresetCall,
    check=check,
    batched=(),
    outputs=("picks",),
    empty=_empty,
    reference=reference,
    backends=(
        cpu_backend(_cpu),
        cuda_backend(_cuda, why_not=_gpu_why_not),
        triton_backend(_triton, why_not=_gpu_why_not),
    ),
    opaque_reference=True,
)
run, _ = register(OPERATOR)
