"""Registration of homography_align with torch: backends, fake outputs, gradients."""

from __future__ import annotations

from torch import Tensor

from ..common.backends import cpu_backend, cuda_backend, triton_backend
from ..common.layout import empty_like_layout
from ..common.registration import register
from ..common.registry import DifferentiableKernels, Gradients, Operator
from .call import NAME, AlignCall, check, empty_sums
from .reference import reference

CUDA_WINDOWS = (1, 3, 5, 7)  # the windows that csrc/homography_align/cuda is compiled for
TRITON_CHANNELS, TRITON_WINDOW = 1024, 15  # the most channels per head and the largest window of the Triton kernels


def _cpu() -> DifferentiableKernels:
    from . import cpu

    return cpu


def _cuda() -> DifferentiableKernels:
    from . import cuda

    return cuda


def _triton() -> DifferentiableKernels:
    from . import triton

    return triton


def _cuda_why_not(call: AlignCall) -> str | None:
    return None if call.window in CUDA_WINDOWS else f"takes windows {CUDA_WINDOWS}, got {call.window}"


def _triton_why_not(call: AlignCall) -> str | None:
    C, Cv = call.query.shape[2], call.value.shape[2]
    if not 1 <= min(C, Cv) // call.heads <= max(C, Cv) // call.heads <= TRITON_CHANNELS:
        return f"takes 1 to {TRITON_CHANNELS} channels per head, got C={C}, Cv={Cv}, heads={call.heads}"
    if call.window > TRITON_WINDOW:
        return f"takes windows up to {TRITON_WINDOW}, got {call.window}"
    return None


def _empty(call: AlignCall) -> tuple[Tensor, ...]:
    return empty_like_layout(call.query, call.value.shape[2]), *empty_sums(call)


def _empty_gradients(call: AlignCall) -> tuple[Tensor, ...]:
    images = [empty_like_layout(t, t.shape[2]) for t in (call.query, call.key, call.value)]
    bias = call.homography.new_empty((0,) if call.bias is None else call.bias.shape)
    return *images, call.homography.new_empty(call.homography.shape), bias


OPERATOR = Operator(
    name=NAME,
    call=AlignCall,
    check=check,
    batched=("query", "key", "value", "homography"),
    outputs=("out", "peak", "log_sum"),
    empty=_empty,
    reference=reference,
    backends=(
        cpu_backend(_cpu),
        cuda_backend(_cuda, why_not=_cuda_why_not),
        triton_backend(_triton, why_not=_triton_why_not),
    ),
    gradients=Gradients(
        arguments=("query", "key", "value", "homography", "bias"),
        outputs=("out", "log_sum"),  # the peak is a constant to autograd
        saved=("out", "peak", "log_sum"),
        empty=_empty_gradients,
        again=lambda call, saved: reference(call)[::2],
    ),
)
run, LAUNCHES = register(OPERATOR)
