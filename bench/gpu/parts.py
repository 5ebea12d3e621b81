"""The jobs of ``check`` by parts: the commands that build, test and measure on a machine with a GPU."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import vsad
from vsad.bench.cases import SHAPES

ROOT = Path(vsad.__file__).resolve().parents[1]
GPU_BACKENDS = ("cuda", "triton")
DTYPES = ("float32", "float16", "bfloat16")
SANITIZERS = ("memcheck", "racecheck")
BENCH_WEIGHTS = {"homography_align": 4, "homography_warp": 1, "prototype_distance": 4, "greedy_coreset": 1}
LICENSE_SETUPTOOLS = 77  # The first release that accepts the form of the license in pyproject.toml.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short")


@dataclass(frozen=True)
class Job:
    """One process.

    Args:
        name: unique within its part.
        command: the program and its arguments. An argument ``{seconds}`` is replaced by this job's share of the time
            that its part has left.
        folder: where the process starts.
        environment: variables that are set for the process.
        missing: why the job cannot run on this machine.
        weight: the job's share of the remaining time, relative to the weights of the jobs that wait behind it.
    """

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Places:
    """Where a run writes: measurements to ``results``, state and logs to ``folder``, in names that hold ``tag``."""

    results: Path
    folder: Path
    tag: str

    @property
    def measured(self) -> Path:
        """The file that names the cases which the benchmark has measured."""
        return self.folder / f"measured-{self.tag}.txt"


@dataclass(frozen=True)
class Part:
    """Jobs that belong together: ``jobs(places)``, ``at_once`` of them at a time, planned for ``limit_s`` seconds."""

    name: str
    says: str
    limit_s: float
    jobs: Callable[[Places], list[Job]]
    at_once: int = 1
    needs_gpu: bool = True


def _build(places: Places) -> list[Job]:
    """Build in place without isolation, then import what was built."""
    folder = ROOT if setuptools_version() >= LICENSE_SETUPTOOLS else _without_pyproject(ROOT / "build" / "gpu-check")
    archs = os.environ.get("VSAD_CUDA_ARCHS", "native")
    environment = {"VSAD_CUDA": "1", "VSAD_CUDA_ARCHS": archs, "PATH": path_with_nvcc()}
    check = "from vsad import _cpu, _cuda; from vsad.info import info; print(info()); print('both extensions import')"
    return [
        Job("compile", (sys.executable, "setup.py", "build_ext", "--inplace"), folder, environment),
        Job("import", (sys.executable, "-c", check)),
    ]


def path_with_nvcc() -> str:
    """PATH, extended by the folder of CUDA's compiler where that is not on it."""
    path = os.environ.get("PATH", "")
    homes = (home / "bin" for home in cuda_homes() if (home / "bin" / "nvcc").exists())
    return path if shutil.which("nvcc") else os.pathsep.join([path, *(str(folder) for folder in homes)])


def cuda_homes() -> list[Path]:
    """The folders that may hold CUDA's toolkit."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return [Path(name) for name in (*named, "/usr/local/cuda")]


def setuptools_version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return int(version("setuptools").split(".")[0])
    except PackageNotFoundError:
        return LICENSE_SETUPTOOLS  # The job itself will say what is missing.


def _without_pyproject(folder: Path) -> Path:
    """Make a folder of links to what the build needs; its ``vsad`` is the checkout's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("setup.py", "csrc", "vsad", "kernels", "bench", "tests"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)
    return folder


def _matrix(places: Places) -> list[Job]:
    """Triton compiles for every dtype and most samples: its jobs take longest, so they are split by dtype and first."""
    names = [f"{op}-triton-cuda-{dtype}" for op in SHAPES for dtype in DTYPES]
    names += [f"{op}-{backend}-cuda" for backend in ("cuda", "torch") for op in SHAPES]
    return [Job(name, (*PYTEST, "tests/test_ops.py", "-k", name)) for name in names]


def _contracts(places: Places) -> list[Job]:
    # Every job would otherwise start a pool of compiler processes of its own.
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    names = [f"{op}-{backend}" for backend in GPU_BACKENDS for op in SHAPES]
    return [Job(name, (*PYTEST, "tests/test_gpu.py", "-k", name), environment=environment) for name in names]


def _large(places: Places) -> list[Job]:
    return [Job(backend, (*PYTEST, "--slow", "tests/test_gpu_large.py", "-k", backend)) for backend in GPU_BACKENDS]


def _sanitizer(places: Places) -> list[Job]:
    files = (home / "bin" / "compute-sanitizer" for home in cuda_homes())
    tool = shutil.which("compute-sanitizer") or next((str(file) for file in files if file.exists()), None)
    missing = None if tool else "needs compute-sanitizer, of CUDA's toolkit"
    options = ("--error-exitcode", "99", "--print-limit", "20", "--target-processes", "application-only")
    script = (sys.executable, "-m", "tests.gpu_small")
    # With torch's cache of memory, a read beyond one tensor lands in the next and is no error.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        Job(
            f"{check}-{op}-{backend}",
            (tool or "compute-sanitizer", "--tool", check, *options, *script, op, backend),
            environment=environment,
            missing=missing,
        )
        for backend in GPU_BACKENDS
        for check in SANITIZERS
        for op in SHAPES
    ]


def _bench(places: Places) -> list[Job]:
    """The measured cases are named in a file, so that only a case that was cut off begins anew."""
    command = (
        *(sys.executable, "-m", "vsad.bench.measure", "--device", "cuda", "--results", str(places.results)),
        *("--done", str(places.measured), "--seconds", "{seconds}"),
    )
    return [Job(op, (*command, "--operator", op), weight=weight) for op, weight in BENCH_WEIGHTS.items()]


_SOME = max(2, min(12, (os.cpu_count() or 2) * 3 // 4))
PARTS = {
    part.name: part
    for part in (
        Part("build", "compile both extensions in place for this GPU", 140, _build, needs_gpu=False),
        Part("matrix", "every operator, backend, dtype, layout and sample against float64", 105, _matrix, _SOME),
        Part("contracts", "opcheck, graphs, streams, compile, autocast, determinism", 75, _contracts, _SOME),
        Part("large", "tensors of more than 2^31 elements", 30, _large),
        Part("sanitizer", "memcheck and racecheck on small shapes", 45, _sanitizer, _SOME),
        Part("bench", "the suite with its peers", 120, _bench),
    )
}
