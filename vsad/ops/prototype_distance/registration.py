"""Registration of prototype_distance with torch: backends, fake outputs, gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.backends import cpu_backend, cuda_backend, triton_backend
from ..common.registration import register
from ..common.registry import DifferentiableKernels, Gradients, Operator
from .call import NAME, DistanceCall, check
from .reference import distances_at, reference

GPU_ROWS = 1 << 31  # the GPU kernels keep the index of a feature or prototype in an int32
CUDA_NEIGHBORS, TRITON_NEIGHBORS = 64, 32  # the largest k that fits the registers of a screening kernel


def _cpu() -> DifferentiableKernels:
    from . import cpu

    return cpu


def _cuda() -> DifferentiableKernels:
    from . import cuda

    return cuda


def _triton() -> DifferentiableKernels:
    from . import triton

    return triton


def _gpu_why_not(call: DistanceCall, neighbors: int) -> str | None:
    for name, rows in (("features", call.features.shape[0]), ("prototypes", call.prototypes.shape[0])):
        if rows >= GPU_ROWS:
            return f"takes fewer than 2^31 {name}, got {rows}; call it on parts of them"
    return None if call.k <= neighbors else f"takes k up to {neighbors}, got {call.k}"


def _cuda_why_not(call: DistanceCall) -> str | None:
    return _gpu_why_not(call, CUDA_NEIGHBORS)


def _triton_why_not(call: DistanceCall) -> str | None:
    return _gpu_why_not(call, TRITON_NEIGHBORS)


def _empty(call: DistanceCall) -> tuple[Tensor, Tensor]:
    shape = (call.features.shape[0], call.k)
    return call.features.new_empty(shape), call.features.new_empty(shape, dtype=torch.int64)


def _empty_gradients(call: DistanceCall) -> tuple[Tensor, Tensor]:
    return call.features.new_empty(call.features.shape), call.prototypes.new_empty(call.prototypes.shape)


def _again(call: DistanceCall, saved: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (distances_at(call.features, call.prototypes, saved[0], call.metric),)


OPERATOR = Operator(
    name=NAME,
    call=DistanceCall,
    check=check,
    batched=("features",),
    outputs=("distances", "indices"),
    empty=_empty,
    reference=reference,
    backends=(
        cpu_backend(_cpu),
        cuda_backend(_cuda, why_not=_cuda_why_not),
        triton_backend(_triton, why_not=_triton_why_not),
    ),
    gradients=Gradients(
        arguments=("features", "prototypes"),
        outputs=("distances",),
        saved=("indices",),
        empty=_empty_gradients,
        again=_again,
    ),
)
run, LAUNCHES = register(OPERATOR)
