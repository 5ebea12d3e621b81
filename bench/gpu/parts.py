"""The jobs of ``check`` by parts: the commands that build, test and measure on a machine with a GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vsad.bench.gpu.toolkit import ROOT, build_folder, path_with_nvcc, tool

GPU_BACKENDS = ("cuda", "triton")
DTYPES = ("float32", "float16", "bfloat16")
SANITIZERS = ("memcheck", "racecheck")
SMOKE = (
    *("warp", "warp-backward", "warp-backward-half", "align-plain"),
    *(f"align-tensor-cores-{width}" for width in (16, 32, 40, 64, 80, 160)),
    *("align-backward", "align-backward-half", "align-gather", "distance-brute-force"),
    *(f"distance-{screen}-{formats}" for screen in ("mma", "wgmma") for formats in ("bfloat16", "int8", "both")),
    *("distance-wgmma-single", "distance-wgmma-long-rows", "distance-wgmma-many", "coreset"),
)
# How the names of an operator's families of kernels begin.
FAMILIES = {
    "homography_align": "align",
    "homography_warp": "warp",
    "prototype_distance": "distance",
    "greedy_coreset": "coreset",
}
SANITIZED = ("align-tensor-cores-40", "distance-mma-both", "distance-wgmma-both", "distance-wgmma-single")
# What Nsight Compute looks at: (kernels, their number, case). The first is what we most need to understand.
ALIGN_FORWARD = "homography_align-forward-B8-V5-C320-H64-W64-heads8-N4-R3-bfloat16-cuda"
BOUND = {"forward": ("mma_kernel", 1, ALIGN_FORWARD)}
PROFILED = {
    "align-many-views": ("mma_kernel", 1, "homography_align-forward-B1-V16-C64-H256-W256-heads4-N4-R3-bfloat16-cuda"),
    "align-backward": ("backward_mma|gather_mma", 2, ALIGN_FORWARD.replace("forward", "train")),
    "distance": ("screen_kernel", 1, "prototype_distance-forward-M25088-P16384-C512-k1-bfloat16-cuda"),
    "warp": ("forward_kernel", 1, "homography_warp-forward-B40-C320-H64-W64-modebilinear-paddingzeros-bfloat16-cuda"),
}
START_S = 15  # what a job that goes on later needs to come to its first case
# Every job would otherwise start a pool of compiler processes of its own.
ONE_COMPILER = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
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
        expected_s: what it takes beside an H200; a job that takes three times as long hangs, and is stopped, and one
            that takes longer than there is time is not begun, but where it is told its ``{seconds}``.
        family: kernels that the job needs: it is skipped where a smoke job of a name that begins so hung or crashed.
    """

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    weight: float = 1.0
    expected_s: float = float("inf")
    family: str | None = None

    def would_be_cut(self, seconds: float) -> bool:
        """Whether so many seconds are too few for it; what is told its seconds stops by itself, and goes on later."""
        least_s = START_S if "{seconds}" in self.command else self.expected_s
        return seconds < min(least_s, self.expected_s) < float("inf")


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

    @property
    def profiles(self) -> Path:
        """The folder of Nsight Compute's reports, which are large."""
        return self.folder.with_name(f"{self.folder.name}-profiles")


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
    """Build the CUDA module alone, in place, without isolation, and import it. No wait on a barrier is without end."""
    archs = os.environ.get("VSAD_CUDA_ARCHS", "native")
    environment = {"VSAD_CUDA": "alone", "VSAD_CUDA_ARCHS": archs, "VSAD_CUDA_CHECK": "1", "PATH": path_with_nvcc()}
    check = "from vsad import _cuda; from vsad.info import info; print(info()); print('vsad._cuda imports')"
    compile = (sys.executable, "setup.py", "build_ext", "--inplace")
    return [
        Job("compile", compile, build_folder(), environment, expected_s=35),
        Job("import", (sys.executable, "-c", check), expected_s=10),
    ]


def _smoke(places: Places) -> list[Job]:
    script = (sys.executable, "-m", "tests.gpu_smoke")
    return [Job(name, (*script, name), expected_s=12) for name in SMOKE]


def _pytest(name: str, *arguments: str, expected_s: float, **options: Any) -> Job:
    return Job(name, (*PYTEST, *arguments), expected_s=expected_s, **options)


def _kernels(places: Places) -> list[Job]:
    """What the CUDA kernels promise beyond the matrix."""
    files = sorted((ROOT / "tests").glob("test_cuda_*.py"))
    family = {f"test_cuda_{op}": name for op, name in FAMILIES.items()}
    return [
        _pytest(f.stem, f"tests/{f.name}", expected_s=30, family=family.get(f.stem))
        for f in files
        if f.stem != "test_cuda_on_cpu"
    ]


def _matrix(backend: str) -> Callable[[Places], list[Job]]:
    """The rows of the CUDA kernels, or of plain torch on the GPU."""
    family = FAMILIES if backend == "cuda" else {}
    names = {f"{op}-{backend}-cuda": op for op in FAMILIES}
    return lambda places: [
        _pytest(name, "tests/test_ops.py", "-k", name, expected_s=40, family=family.get(op))
        for name, op in names.items()
    ]


def _triton(places: Places) -> list[Job]:
    """Triton compiles for every dtype and most samples, which takes long: its jobs are split by dtype."""
    names = [f"{op}-triton-cuda-{dtype}" for op in FAMILIES for dtype in DTYPES]
    return [_pytest(name, "tests/test_ops.py", "-k", name, expected_s=60) for name in names]


def _contracts(backend: str) -> Callable[[Places], list[Job]]:
    family = FAMILIES if backend == "cuda" else {}
    # An H200's host took 87 s for those of homography_align in Triton.
    seconds = {"cuda": dict.fromkeys(FAMILIES, 45.0), "triton": dict.fromkeys(FAMILIES, 45.0)}
    seconds["triton"]["homography_align"] = 90.0
    return lambda places: [
        _pytest(
            f"{op}-{backend}", "tests/test_gpu.py", "-k", f"{op}-{backend}",
            expected_s=seconds[backend][op], environment=ONE_COMPILER, family=family.get(op),
        )
        for op in FAMILIES
    ]  # fmt: skip


def _citizens(places: Places) -> list[Job]:
    seconds = {"compilers": 80, "derivatives": 60, "citizens": 40}
    return [
        _pytest(name, f"tests/test_{name}.py", "-k", "cuda", expected_s=expected_s, environment=ONE_COMPILER)
        for name, expected_s in seconds.items()
    ]


def _startup(places: Places) -> list[Job]:
    """What is known of the GPUs and kernels before torch is imported is what torch then finds."""
    return [_pytest("gpus", "tests/test_startup.py", "-k", "gpus or tables", expected_s=20)]


def _large(backend: str) -> Callable[[Places], list[Job]]:
    seconds = {"cuda": 40.0, "triton": 60.0}[backend]
    return lambda places: [
        _pytest(backend, "--slow", "tests/test_gpu_large.py", "-k", backend, expected_s=seconds)
    ]  # fmt: skip


def _sanitized(name: str, check: str, family: str | None, expected_s: float, *module: str) -> Job:
    path, missing = tool("compute-sanitizer")
    options = ("--error-exitcode", "99", "--print-limit", "20", "--target-processes", "application-only")
    command = (path, "--tool", check, *options, sys.executable, "-m", *module)
    # With torch's cache of memory, a read beyond one tensor lands in the next and is no error.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Job(f"{check}-{name}", command, ROOT, environment, missing, expected_s=expected_s, family=family)


def _forced(places: Places) -> list[Job]:
    """The sanitizers on families of kernels that samples are too small for."""
    return [
        _sanitized(name, check, name, 25, "tests.gpu_smoke", name) for check in SANITIZERS for name in SANITIZED
    ]  # fmt: skip


def _samples(backend: str) -> Callable[[Places], list[Job]]:
    """The sanitizers on every sample; Triton compiles while they watch."""
    family, seconds = (FAMILIES, 60) if backend == "cuda" else ({}, 100)
    return lambda places: [
        _sanitized(f"{op}-{backend}", check, family.get(op), seconds, "tests.gpu_small", op, backend)
        for check in SANITIZERS
        for op in FAMILIES
    ]


def _profile(kernels: dict[str, tuple[str, int, str]]) -> Callable[[Places], list[Job]]:
    """Nsight Compute on some launches: what binds them. Its reports lie beside the logs."""

    def jobs(places: Places) -> list[Job]:
        path, missing = tool("ncu")
        found = []
        for name, (kernel, launches, case) in kernels.items():
            script = (sys.executable, "-m", "vsad.bench.gpu.ncu", "--ncu", path, "--kernel", kernel)
            report = ("--launches", str(launches), "--report", str(places.profiles / f"{name}-{places.tag}"))
            family, expected_s = FAMILIES[case.split("-")[0]], 25 + 5 * launches
            found.append(Job(name, (*script, *report, case), missing=missing, expected_s=expected_s, family=family))
        return found

    return jobs


def _model(places: Places) -> list[Job]:
    """Train, fit and detect on the GPU, and compare with the CPU."""
    absent = [name for name in ("diffusers", "accelerate", "cv2") if find_spec(name) is None]
    missing = f"{', '.join(absent)} not installed; see docs/gpu.md" if absent else None
    module, device = (sys.executable, "-m"), ("--device", "cuda")
    return [
        Job("steps", (*module, "vsad.bench.gpu.steps", *device, "--preset", "small"), missing=missing, expected_s=30),
        Job("whole", (*module, "vsad.bench.gpu.whole", *device), missing=missing, expected_s=40),
    ]


def _host(places: Places) -> list[Job]:
    """What a call costs before its kernels run."""
    return [Job("host", (sys.executable, "-m", "vsad.bench.gpu.host", "--device", "cuda"), expected_s=15)]


def _measuring(places: Places, peers: str) -> tuple[str, ...]:
    """The measured cases are named in a file, so that only a case that was cut off begins anew."""
    done = places.measured.with_name(f"{places.measured.stem}-{peers}.txt")
    return (
        *(sys.executable, "-m", "vsad.bench.measure", "--device", "cuda", "--results", str(places.results)),
        *("--peers", peers, "--done", str(done), "--seconds", "{seconds}"),
    )


def _speed(places: Places) -> list[Job]:
    """A process for each operator, since ours may break the GPU's context."""
    seconds = {"homography_align": 20, "prototype_distance": 30, "homography_warp": 20, "greedy_coreset": 15}
    command = _measuring(places, "kernels")
    return [
        Job(op, (*command, "--operator", op), weight=expected_s, family=FAMILIES[op], expected_s=expected_s)
        for op, expected_s in seconds.items()
    ]


def _peers(peers: str, expected_s: float, *options: str) -> Callable[[Places], list[Job]]:
    """One process, whose ceilings are measured once; it goes on in a later run."""
    return lambda places: [Job("cases", (*_measuring(places, peers), *options), expected_s=expected_s)]


def _all(*groups: Callable[[Places], list[Job]]) -> Callable[[Places], list[Job]]:
    return lambda places: [job for make in groups for job in make(places)]


def _together(**groups: Callable[[Places], list[Job]]) -> Callable[[Places], list[Job]]:
    """The jobs of several groups, so that none waits for the last of another; their names begin with the group's."""

    def jobs(places: Places) -> list[Job]:
        return [replace(job, name=f"{group}-{job.name}") for group, make in groups.items() for job in make(places)]

    return jobs


# Those that take longest begin first, where several run at a time.
_TESTS = _together(
    contracts=_contracts("cuda"), matrix=_all(_matrix("cuda"), _matrix("torch")), kernels=_kernels, startup=_startup
)
_MORE = _together(citizens=_citizens, large=_large("cuda"), sanitizer=_all(_samples("cuda"), _forced))
_IN_TRITON = _together(
    contracts=_contracts("triton"), matrix=_triton, large=_large("triton"), sanitizer=_samples("triton")
)
_SOME = max(2, min(14, (os.cpu_count() or 2) * 7 // 8))
# The most valuable facts first: a run that is cut off has them. What is measured has the GPU for itself.
PARTS = {
    part.name: part
    for part in (
        Part("build", "compile the CUDA kernels in place for this GPU", 120, _build, needs_gpu=False),
        Part("smoke", "every family of kernels once, against float64", 60, _smoke, _SOME),
        Part("speed", "our CUDA kernels beside what memory and tensor cores need; the host", 150, _all(_speed, _host)),
        Part("align", "what binds the forward of homography_align, by Nsight Compute", 60, _profile(BOUND)),
        Part("tests", "the matrix against float64, and what the kernels promise beyond it", 100, _TESTS, _SOME),
        Part("model", "train, fit and detect on the GPU, and compare with the CPU", 110, _model),
        Part("more", "derivatives, compilers, tensors beyond 2^31 elements, memcheck and racecheck", 150, _MORE, _SOME),
        Part("profile", "what binds the other kernels, by Nsight Compute", 150, _profile(PROFILED)),
        Part("bench", "the suite with its peers, but those that run a compiler", 60, _peers("eager", 210)),
        Part("triton", "the Triton kernels: contracts, matrix, large tensors, sanitizers", 120, _IN_TRITON, _SOME),
        Part("compiled", "the suite with peers that run a compiler", 60, _peers("compiled", 120, "--quick")),
    )
}  # fmt: skip
