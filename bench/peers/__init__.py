"""Peers: what people use for the same. A library is a module with functions named after the operators.

A function takes a problem, does what may be done before the clock starts (build an index, convert a homography's
direction), and returns what is timed: a function without arguments that gives the operator's result as torch
tensors, ``(output, *gradients)`` where the problem has a cotangent. It raises UnsupportedError where it cannot.

To add a library, add a module with ``PEERS``, a list of Peer.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsad.bench import cuda, machine
from vsad.bench.cases import COPY, PRODUCT, Case
from vsad.bench.operators import Problem
from vsad.ops.common.registry import REFERENCE

Run = Callable[[], Any]


class UnsupportedError(Exception):
    """This library cannot do this case; the message says why."""


@dataclass(frozen=True)
class Peer:
    """One way to do it.

    Args:
        name: name in results and tables; our own backends are called "vsad <backend>".
        operators: by operator, the function that prepares a run.
        missing: why it cannot run on this machine at all; None if it can.
        devices: that it runs on.
        approximate: timed although it is off, with a note: what it computes in is less than the operator promises.
        compiles: runs a compiler first, which takes long.
        of_targets: only there to be what targets are against.
        gflops: by operator, of useful operations, about, for what is so slow that it may have to be left out unseen.
        gpu_gflops: the same on a GPU.
    """

    name: str
    operators: Mapping[str, Callable[[Problem], Run]]
    missing: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    approximate: bool = False
    compiles: bool = False
    of_targets: bool = False
    gflops: Mapping[str, float] = field(default_factory=dict)
    gpu_gflops: Mapping[str, float] = field(default_factory=dict)

    def takes_part(self, case: Case, compiled: bool) -> bool:
        """Whether this peer is measured on a case; ``compiled`` lets those that run a compiler first in."""
        return (
            case.operator in self.operators
            and case.device in self.devices
            and (not self.compiles or (compiled and case.compiled))
            and (not self.of_targets or case.target is not None)
        )


def all_peers() -> list[Peer]:
    """Every library's peers, ours first."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    found = [peer for name in names for peer in importlib.import_module(f"{__name__}.{name}").PEERS]
    return sorted(found, key=lambda peer: not is_ours(peer.name))


def is_yardstick(name: str) -> bool:
    """No result, but what the machine needs for the work alone: neither judged nor a rival."""
    return name in (COPY, PRODUCT)


def is_ours(name: str) -> bool:
    return name.startswith("vsad ")


def is_kernel(name: str) -> bool:
    """Ours, and not the reference, which is there to be right."""
    return is_ours(name) and name != f"vsad {REFERENCE}"


def needs(module: str, package: str, extra: str | None = "bench") -> str | None:
    """Why a library cannot be used here, without importing it; ``extra`` of ours installs it."""
    wanted = f"'vsad[{extra}]'" if extra else package
    return None if importlib.util.find_spec(module) else f"needs {package}; pip install {wanted}"


def run_of(function: Callable[..., Tensor], problem: Problem, *names: str) -> Run:
    """Time ``function(*tensors of these names)``, with the gradients of all of them where there is a cotangent."""
    tensors = [problem.tensors[name] for name in names]
    if problem.cotangent is None:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*tensors)

        return forward
    leaves = [t.detach().requires_grad_() for t in tensors]
    if problem.case.alone:
        once = function(*leaves)

        def backward() -> tuple[Tensor, ...]:
            return once.detach(), *torch.autograd.grad(once, leaves, problem.cotangent, retain_graph=True)

        return backward

    def both() -> tuple[Tensor, ...]:
        out = function(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, problem.cotangent)

    return both


def floats_only(problem: Problem) -> None:
    if problem.case.dtype not in ("float32", "float64"):
        raise UnsupportedError(f"does not compute in {problem.case.dtype} with coordinates in float32")


def native(problem: Problem) -> None:
    """Refuse mixed precision where the processor has no products in it: convolutions take several times as long."""
    if problem.case.dtype == "bfloat16" and problem.case.device == "cpu" and "avx512_bf16" not in machine.flags():
        raise UnsupportedError("the processor has no products of bfloat16")


def fits(wanted_bytes: float, device: str = "cpu") -> None:
    """Refuse what would not fit into memory, before the system kills the process."""
    free = available_bytes(device)
    if free is not None and wanted_bytes > 0.8 * free:
        raise UnsupportedError(f"would need {wanted_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def available_bytes(device: str = "cpu") -> float | None:
    """Memory that is free; None where the system does not say."""
    if device == "cuda":
        return cuda.available_bytes()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
