"""Registration of homography_warp with torch: backends, fake outputs, gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.backends import cpu_backend, cuda_backend, triton_backend
from ..common.layout import empty_like_layout
from ..common.registration import register
from ..common.registry import DifferentiableKernels, Gradients, Operator
from .call import NAME, WarpCall, check, empty
from .reference import reference


def _cpu() -> DifferentiableKernels:
    from . import cpu

    return cpu


def _cuda() -> DifferentiableKernels:
    from . import cuda

    return cuda


def _triton() -> DifferentiableKernels:
    from . import triton

    return triton


def _empty_gradients(call: WarpCall) -> tuple[Tensor, Tensor]:
    grad_input = empty_like_layout(call.input, call.input.shape[1])
    return grad_input, call.homography.new_empty(call.homography.shape)


OPERATOR = Operator(
    name=NAME,
    call=WarpCall,
    check=check,
    batched=("input", "homography"),
    outputs=("out", "mask"),
    empty=empty,
    reference=reference,
    backends=(
        cpu_backend(_cpu, torch.uint8),
        cuda_backend(_cuda, torch.uint8),
        triton_backend(_triton, torch.uint8),
    ),
    gradients=Gradients(
        arguments=("input", "homography"),
        outputs=("out",),
        saved=(),
        empty=_empty_gradients,
        again=lambda call, saved: reference(call)[:1],
    ),
)
run, LAUNCHES = register(OPERATOR)
