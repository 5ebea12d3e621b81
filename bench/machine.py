"""The machine that a result belongs to, and the ceilings that it was measured to have."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vsad
from vsad.bench import cuda
from vsad.bench.cases import Case

MB = 1 << 20
COPY_BYTES = tuple(n * MB for n in (2, 16, 128, 1024))  # They are read and written; from a cache's size to far beyond.
MATRIX_SIDES = (512, 2048)  # The products of such square matrices show the peak.
SLOW_S = 0.05  # Where the small product takes this long, the large one is not tried: it would take many seconds.
LIBRARIES = (
    "torch", "numpy", "opencv-python-headless", "kornia", "faiss-cpu", "scikit-learn", "pykeops", "triton",
    "flash-kmeans",
)  # fmt: skip


def describe(device: str = "cpu") -> dict[str, Any]:
    """What a reader needs to know about the machine; nothing that names its owner. With its GPU, if that is used."""
    try:
        from vsad import _cpu

        isa = str(_cpu.isa())
    except ImportError:
        isa = "vsad._cpu is not built"
    return {
        **({"gpu": cuda.describe()} if device == "cuda" else {}),
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "isa": isa,
        "flags": [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags()],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def gpu_slug(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9.]+", name.lower()))


def slug(machine: dict[str, Any]) -> str:
    """A file name for a machine's results; those of a GPU are named after it."""
    if "gpu" in machine:
        return gpu_slug(machine["gpu"]["name"])
    words = re.findall(r"[a-z0-9.]+", re.sub(r"\(\w+\)|@.*", "", machine["cpu"].lower()))
    return "-".join([*words, str(machine["threads"]), "threads"])


def libraries() -> dict[str, str]:
    """Versions of what is installed of the libraries that take part."""
    versions = {"vsad": vsad.__version__}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> str | None:
    """The commit of the checkout that is measured, "+" where files differ from it; None outside a checkout.

    VSAD_COMMIT names it on a machine that has the files without git.
    """
    if os.environ.get("VSAD_COMMIT"):
        return os.environ["VSAD_COMMIT"]
    source = Path(vsad.__file__).resolve()
    try:
        git = ["git", "-C", str(source.parent)]
        # an installed package may lie inside somebody else's checkout, which does not track it
        subprocess.run([*git, "ls-files", "--error-unmatch", source.name], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def ceilings(device: str = "cpu") -> dict[str, Any]:
    """Best of some runs, in GFLOP/s and GB/s: matrix products by torch, and copies of several sizes."""
    if device == "cuda":
        return cuda.ceilings()
    found: dict[str, Any] = {}
    for name in ("float32", "bfloat16"):
        found[name] = _product_gflops(torch.mm, getattr(torch, name))
    try:
        found["int8"] = _product_gflops(torch._int_mm, torch.int8)
    except RuntimeError:
        found["int8"] = None
    found["copy"] = {}
    for size in COPY_BYTES:
        a = torch.ones(size // 8)  # half is read, half written
        b = torch.empty_like(a)
        found["copy"][str(size)] = size / _best(b.copy_, a) / 1e9
    return found


def share_of_ceiling(case: Case, flops: float, bytes: float, seconds: float, measured: dict[str, Any]) -> float:
    """The least time that the machine needs, by its arithmetic or by its memory, over the time that was taken.

    prototype_distance may screen in the fastest arithmetic there is, and a model may multiply in its mixed precision;
    the others compute in float32. Memory is as fast as a copy of about the same size was. Work that an algorithm skips
    counts as done, so greedy_coreset may pass 1.
    """
    kinds = {"prototype_distance": ("float32", "bfloat16", "int8"), "model": ("float32", case.dtype)}
    arithmetic = max(measured[kind] or 0 for kind in kinds.get(case.operator, ("float32",))) * 1e9
    nearest = min(measured["copy"], key=lambda size: abs(float(size) - bytes))
    return max(flops / arithmetic, bytes / (measured["copy"][nearest] * 1e9)) / seconds


def _product_gflops(multiply: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> float:
    """The rate of the largest square product that does not take long; some machines have no fast one of a dtype."""
    for side in MATRIX_SIDES:
        a = torch.ones(side, side, dtype=dtype)
        best_s = _best(multiply, a, a)
        if best_s > SLOW_S:
            break
    return 2 * side**3 / best_s / 1e9


def _best(function: Callable[..., Any], *arguments: Any, rounds: int = 7) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def flags() -> set[str]:
    """What the processor says that it can, in the words of Linux; nothing elsewhere."""
    match = re.search(r"^flags\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return set(match[1].split()) if match else set()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
