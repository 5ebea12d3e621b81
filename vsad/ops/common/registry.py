"""The contract of every operator: one reference, one schema, a table of backends that can say "why not?"."""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

REFERENCE = "torch"


class _Preference(threading.local):  # one a thread; a ContextVar cannot be read under torch.compile
    backend: str | None = None


_preference = _Preference()


def _nothing(*tensors: Tensor, **options: Any) -> str | None:
    return None


def missing_extension(module: str) -> str | None:
    """Why a compiled module cannot be used here; None if it can. Asked once, when a table is made."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        compiler = "CUDA's compiler, nvcc" if module.endswith("_cuda") else "a C++ compiler"
        return f"needs {module}, which does not import here ({error}); reinstall vsad with {compiler}"
    return None


@dataclass(frozen=True)
class Backend:
    """One row of an operator's table.

    Args:
        name: what users write in ``backend=``.
        module: launcher module with ``forward`` and, where the operator has gradients, ``backward``.
        devices, dtypes: what the first tensor of a call may be.
        missing: why this backend is unusable on this machine; None if it is usable.
        why_not: looks at shapes and options (never at values), answers with a reason to refuse or None.
    """

    name: str
    module: str
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    missing: str | None = None
    why_not: Callable[..., str | None] = _nothing

    def load(self) -> ModuleType:
        return importlib.import_module(self.module)

    def refusal(self, *tensors: Tensor, **options: Any) -> str | None:
        """Why this backend cannot take this call; None if it can. Reads metadata only."""
        first = tensors[0]
        if first.device.type not in self.devices:
            return f"needs tensors on {' or '.join(self.devices)}, got {first.device.type}"
        if first.dtype not in self.dtypes:
            return f"takes {', '.join(str(d)[6:] for d in self.dtypes)}, got {str(first.dtype)[6:]}"
        return self.missing or self.why_not(*tensors, **options)


@dataclass(frozen=True)
class Op:
    """An operator: its public function, its definition in plain torch, and its backends in order of preference."""

    name: str
    public: Callable[..., Any]
    reference: Callable[..., Any]
    backends: tuple[Backend, ...]

    def choose(self, *tensors: Tensor, backend: str | None, **options: Any) -> str:
        """The backend that runs this call.

        Unnamed, the first that does not refuse; named (by argument or by ``using``), that one or an error.

        Raises:
            ValueError: the name is not in the table.
            RuntimeError: the named backend refuses; the message says why.
        """
        wanted = backend if backend is not None else _preference.backend
        if wanted is None:
            for row in self.backends:
                if row.refusal(*tensors, **options) is None:
                    return row.name
            return REFERENCE
        if wanted == REFERENCE:
            return REFERENCE
        reason = self.backend(wanted).refusal(*tensors, **options)
        if reason is not None:
            raise RuntimeError(f"{self.name}: backend {wanted!r} {reason}")
        return wanted

    def backend(self, name: str) -> Backend:
        for row in self.backends:
            if row.name == name:
                return row
        names = [row.name for row in self.backends] + [REFERENCE]
        raise ValueError(f"{self.name}: backend must be one of {names}, got {name!r}")


FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
GPU_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def cpu_backend(op: str) -> Backend:
    """The row of an operator's C++ kernel."""
    return Backend("cpu", f"vsad.ops.{op}.cpu", ("cpu",), FLOATS, missing_extension("vsad._cpu"))


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for these architectures run on a GPU of this compute capability.

    Machine code serves its own generation from its own number on, and with a letter that number only; of the last
    architecture there is PTX too, which the driver compiles for whatever came later.
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


@torch.compiler.assume_constant_result
def _unsupported_gpu(index: int) -> str | None:
    from vsad import _cuda

    capability = torch.cuda.get_device_capability(index)
    if runs_on(_cuda.ARCHITECTURES, capability):
        return None
    number = f"{capability[0]}{capability[1]}"
    return f"was not built for this GPU's architecture, sm_{number}; reinstall vsad with VSAD_CUDA_ARCHS=native"


def cuda_backend(op: str, why_not: Callable[..., str | None] = _nothing) -> Backend:
    """The row of an operator's CUDA C++ kernel. A build that emulates CUDA, for tests, takes tensors on the CPU."""
    missing = missing_extension("vsad._cuda")
    emulated = missing is None and importlib.import_module("vsad._cuda").EMULATED

    def refuses(*tensors: Tensor, **options: Any) -> str | None:
        unsupported = None if emulated else _unsupported_gpu(tensors[0].device.index)
        return unsupported or why_not(*tensors, **options)

    return Backend("cuda", f"vsad.ops.{op}.cuda", ("cpu" if emulated else "cuda",), GPU_FLOATS, missing, refuses)


def triton_backend(op: str, why_not: Callable[..., str | None] = _nothing) -> Backend:
    """The row of an operator's Triton kernel. Triton takes long to import: it waits until the kernel is used.

    With ``TRITON_INTERPRET=1`` in the environment it takes tensors on the CPU, except bfloat16, which Triton's
    interpreter computes wrongly.
    """
    missing = None if importlib.util.find_spec("triton") else "needs triton; pip install 'vsad[triton]'"
    module = f"vsad.ops.{op}.triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Backend("triton", module, ("cpu",), (torch.float32, torch.float16), missing, why_not)
    return Backend("triton", module, ("cuda",), GPU_FLOATS, missing, why_not)


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    OPS[op.name] = op
    return op


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Run every vsad operator inside the block on one backend, as if ``backend=`` were passed to each call.

    Example:
        >>> with vsad.ops.using("torch"):
        ...     out = vsad.ops.homography_warp(image, homography)
    """
    known = {row.name for op in OPS.values() for row in op.backends} | {REFERENCE}
    if backend not in known:
        raise ValueError(f"using: backend must be one of {sorted(known)}, got {backend!r}")
    before, _preference.backend = _preference.backend, backend
    try:
        yield
    finally:
        _preference.backend = before
