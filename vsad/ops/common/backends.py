"""The kinds of backends: which devices and dtypes they take, and what a machine may lack for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vsad import machine

from .registry import Backend, Kernels, never_refuses

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
GPU_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
Load = Callable[[], Kernels]
WhyNot = Callable[[Any], str | None]


def cpu_backend(load: Load, *more_dtypes: torch.dtype) -> Backend[Any]:
    """The row of an operator's C++ kernels; ``more_dtypes`` are taken beside the floating point ones."""
    return Backend("cpu", load, machine.devices("cpu"), FLOATS + more_dtypes, machine.missing("cpu"))


def cuda_backend(load: Load, *more_dtypes: torch.dtype, why_not: WhyNot = never_refuses) -> Backend[Any]:
    """The row of an operator's CUDA C++ kernels. A build that emulates CUDA, for tests, takes tensors on the CPU."""
    dtypes = GPU_FLOATS + more_dtypes
    missing, devices = machine.missing("cuda"), machine.devices("cuda")
    if missing is not None or devices != ("cuda",):
        return Backend("cuda", load, devices, dtypes, missing, why_not)

    def refuses(call: Any) -> str | None:
        return _unsupported_gpu(call[0].device.index) or why_not(call)

    return Backend("cuda", load, devices, dtypes, None, refuses)


def triton_backend(load: Load, *more_dtypes: torch.dtype, why_not: WhyNot = never_refuses) -> Backend[Any]:
    """The row of an operator's Triton kernels. Triton takes long to import: it waits until the kernels are used.

    With ``TRITON_INTERPRET=1`` in the environment it takes tensors on the CPU, except bfloat16, which Triton's
    interpreter computes wrongly.
    """
    missing, devices = machine.missing("triton"), machine.devices("triton")
    floats = GPU_FLOATS if devices == ("cuda",) else (torch.float32, torch.float16)
    return Backend("triton", load, devices, floats + more_dtypes, missing, why_not)


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for these architectures run on a GPU of this compute capability.

    Machine code serves GPUs of its own major version from its own minor version on, and with a letter that capability
    only. The last architecture is also there as PTX, which the driver compiles for every later GPU.
    """
    for architecture in architectures.split():
        number = int(architecture.rstrip("af"))
        major, minor = number // 10, number % 10
        if capability == (major, minor) or (
            architecture.isdigit() and capability[0] == major and minor < capability[1]
        ):
            return True
    last = architectures.split()[-1]
    return last.isdigit() and capability >= (int(last) // 10, int(last) % 10)


def _unsupported_gpu(index: int) -> str | None:
    from vsad import _cuda

    capability = torch.cuda.get_device_capability(index)
    if runs_on(_cuda.ARCHITECTURES, capability):
        return None
    number = f"{capability[0]}{capability[1]}"
    return f"was not built for this GPU's architecture, sm_{number}; reinstall vsad with VSAD_CUDA_ARCHS=native"


# This is all that torch.compiler.assume_constant_result does, but to call it imports torch's compiler and Triton, which
# doubles the time that ``import vsad.ops`` takes.
_unsupported_gpu._dynamo_marked_constant = True  # type: ignore[attr-defined]
