"""The jobs of ``check`` by parts: the commands that build, test and measure on a machine with a GPU."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import vsad

ROOT = Path(vsad.__file__).resolve().parents[1]
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
NCU_SECTIONS = (
    "SpeedOfLight",
    "LaunchStats",
    "Occupancy",
    "WarpStateStats",
    "MemoryWorkloadAnalysis",
    "InstructionStats",
)
# (kernel, case) of the profiles.
PROFILED = {
    "align": ("mma_kernel", "homography_align-forward-B8-V5-C320-H64-W64-heads8-N4-R3-bfloat16-cuda"),
    "align-backward": ("backward", "homography_align-train-B8-V5-C320-H64-W64-heads8-N4-R3-bfloat16-cuda"),
    "warp": ("forward_kernel", "homography_warp-forward-B40-C320-H64-W64-modebilinear-paddingzeros-bfloat16-cuda"),
    "distance": ("screen_kernel", "prototype_distance-forward-M25088-P16384-C512-k1-bfloat16-cuda"),
}
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
        expected_s: what it takes; a job that takes three times as long hangs, and is stopped.
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
    """Build the CUDA module alone, in place, without isolation, and import it. No wait on a barrier is without end."""
    folder = ROOT if setuptools_version() >= LICENSE_SETUPTOOLS else _without_pyproject(ROOT / "build" / "gpu-check")
    archs = os.environ.get("VSAD_CUDA_ARCHS", "native")
    environment = {"VSAD_CUDA": "alone", "VSAD_CUDA_ARCHS": archs, "VSAD_CUDA_CHECK": "1", "PATH": path_with_nvcc()}
    check = "from vsad import _cuda; from vsad.info import info; print(info()); print('vsad._cuda imports')"
    return [
        Job("compile", (sys.executable, "setup.py", "build_ext", "--inplace"), folder, environment, expected_s=60),
        Job("import", (sys.executable, "-c", check), expected_s=20),
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


def _smoke(places: Places) -> list[Job]:
    script = (sys.executable, "-m", "tests.gpu_smoke")
    return [Job(name, (*script, name), expected_s=15) for name in SMOKE]


def _pytest(name: str, *arguments: str, expected_s: float = 60, **options: Any) -> Job:
    return Job(name, (*PYTEST, *arguments), expected_s=expected_s, **options)


def _kernels(places: Places) -> list[Job]:
    """What the CUDA kernels promise beyond the matrix."""
    files = sorted((ROOT / "tests").glob("test_cuda_*.py"))
    family = {f"test_cuda_{op}": name for op, name in FAMILIES.items()}
    return [
        _pytest(f.stem, f"tests/{f.name}", family=family.get(f.stem)) for f in files if f.stem != "test_cuda_on_cpu"
    ]


def _matrix(places: Places) -> list[Job]:
    names = {f"{op}-{backend}-cuda": op for op in FAMILIES for backend in ("cuda", "torch")}
    return [
        _pytest(name, "tests/test_ops.py", "-k", name, family=FAMILIES[op] if "cuda-cuda" in name else None)
        for name, op in names.items()
    ]


def _triton(places: Places) -> list[Job]:
    """Triton compiles for every dtype and most samples, which takes long: its jobs are split by dtype."""
    names = [f"{op}-triton-cuda-{dtype}" for op in FAMILIES for dtype in DTYPES]
    return [_pytest(name, "tests/test_ops.py", "-k", name, expected_s=100) for name in names]


def _contracts(places: Places) -> list[Job]:
    # Every job would otherwise start a pool of compiler processes of its own.
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return [
        _pytest(
            f"{op}-{backend}", "tests/test_gpu.py", "-k", f"{op}-{backend}", expected_s=80, environment=environment,
            family=FAMILIES[op] if backend == "cuda" else None,
        )
        for backend in GPU_BACKENDS
        for op in FAMILIES
    ]  # fmt: skip


def _citizens(places: Places) -> list[Job]:
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    files = ("derivatives", "citizens", "compilers")
    return [
        _pytest(name, f"tests/test_{name}.py", "-k", "cuda", expected_s=80, environment=environment) for name in files
    ]


def _large(places: Places) -> list[Job]:
    return [_pytest(backend, "--slow", "tests/test_gpu_large.py", "-k", backend) for backend in GPU_BACKENDS]


def tool(name: str) -> tuple[str, str | None]:
    """The path of one of CUDA's tools, and why it cannot be used."""
    files = (home / "bin" / name for home in cuda_homes())
    found = shutil.which(name) or next((str(file) for file in files if file.exists()), None)
    return found or name, None if found else f"needs {name}, of CUDA's toolkit"


def _sanitizer(places: Places) -> list[Job]:
    path, missing = tool("compute-sanitizer")
    options = ("--error-exitcode", "99", "--print-limit", "20", "--target-processes", "application-only")
    # With torch's cache of memory, a read beyond one tensor lands in the next and is no error.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}

    def job(name: str, check: str, family: str | None, *module: str) -> Job:
        command = (path, "--tool", check, *options, sys.executable, "-m", *module)
        return Job(f"{check}-{name}", command, environment=environment, missing=missing, expected_s=60, family=family)

    forced = [job(name, check, name, "tests.gpu_smoke", name) for check in SANITIZERS for name in SANITIZED]
    return forced + [
        job(f"{op}-{backend}", check, FAMILIES[op] if backend == "cuda" else None, "tests.gpu_small", op, backend)
        for backend in GPU_BACKENDS
        for check in SANITIZERS
        for op in FAMILIES
    ]


def _profile(places: Places) -> list[Job]:
    """Nsight Compute on the kernels that matter most: what binds them."""
    path, missing = tool("ncu")
    sections = [f"--section={name}" for name in NCU_SECTIONS]
    options = ("--clock-control", "none", "--launch-count", "1", *sections)
    return [
        Job(
            name,
            (path, *options, "--kernel-name", f"regex:{kernel}", sys.executable, "-m", "vsad.bench.gpu.once", case),
            missing=missing, expected_s=25, family=FAMILIES[case.split("-")[0]],
        )
        for name, (kernel, case) in PROFILED.items()
    ]  # fmt: skip


def _model(places: Places) -> list[Job]:
    """Train, fit and detect on the GPU, and compare with the CPU."""
    absent = [name for name in ("diffusers", "accelerate", "cv2") if find_spec(name) is None]
    missing = f"{', '.join(absent)} not installed" if absent else None
    command = (sys.executable, "-m", "vsad.bench.gpu.whole", "--device", "cuda")
    return [Job("whole", command, missing=missing, expected_s=60)]


def _measure(peers: str, expected_s: float, *options: str) -> Callable[[Places], list[Job]]:
    def jobs(places: Places) -> list[Job]:
        """The measured cases are named in a file, so that only a case that was cut off begins anew."""
        done = places.measured.with_name(f"{places.measured.stem}-{peers}.txt")
        command = (
            *(sys.executable, "-m", "vsad.bench.measure", "--device", "cuda", "--results", str(places.results)),
            *("--peers", peers, "--done", str(done), "--seconds", "{seconds}", *options),
        )
        return [
            Job(op, (*command, "--operator", op), weight=weight, family=FAMILIES[op], expected_s=expected_s)
            for op, weight in BENCH_WEIGHTS.items()
        ]

    return jobs


def _together(**groups: Callable[[Places], list[Job]]) -> Callable[[Places], list[Job]]:
    """The jobs of several groups, so that none waits for the last of another; their names begin with the group's."""

    def jobs(places: Places) -> list[Job]:
        return [replace(job, name=f"{group}-{job.name}") for group, make in groups.items() for job in make(places)]

    return jobs


_TESTS = _together(kernels=_kernels, matrix=_matrix, contracts=_contracts)
_MORE = _together(citizens=_citizens, large=_large, sanitizer=_sanitizer)
_SOME = max(2, min(14, (os.cpu_count() or 2) * 7 // 8))
# The most valuable facts first: a run that is cut off has them. What is measured has the GPU for itself.
PARTS = {
    part.name: part
    for part in (
        Part("build", "compile the CUDA kernels in place for this GPU", 90, _build, needs_gpu=False),
        Part("smoke", "every family of kernels once, against float64", 60, _smoke, _SOME),
        Part("speed", "our CUDA kernels beside what memory and tensor cores need", 120, _measure("kernels", 40)),
        Part("profile", "Nsight Compute on the kernels that matter most", 50, _profile),
        Part("tests", "the matrix against float64, and what the kernels promise beyond it", 90, _TESTS, _SOME),
        Part("model", "train, fit and detect on the GPU, and compare with the CPU", 120, _model),
        Part("bench", "the suite with its peers, but those that run a compiler", 120, _measure("eager", 60)),
        Part("more", "derivatives, compilers, tensors beyond 2^31 elements, memcheck and racecheck", 120, _MORE, _SOME),
        Part("triton", "the matrix of the Triton kernels", 100, _triton, _SOME),
        Part("compiled", "the suite with peers that run a compiler", 60, _measure("compiled", 60, "--quick")),
    )
}
