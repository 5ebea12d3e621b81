"""Prove everything on a machine with a GPU, in parts that remember how they ended: ``python -m vsad.bench.gpu_check``.

Needs a compiler, CUDA's toolkit, torch, Triton, pybind11, pytest and ninja; installs nothing. A part is a list of jobs,
each a process of its own: one that breaks the GPU's context breaks no other. What passed is not repeated while the
sources, the GPU and torch stay the same, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import vsad
from vsad.bench.cases import SHAPES
from vsad.bench.gpu_outcome import Outcome, outcome

ROOT = Path(vsad.__file__).resolve().parents[1]
TOTAL_S = 520  # of the 9 minutes that a run may take; starting and stopping need the rest
GRACE_S = 8  # between asking a process to stop and ending it: pytest writes its summary meanwhile
GPU_BACKENDS = ("cuda", "triton")
SANITIZERS = ("memcheck", "racecheck")
BENCH_WEIGHTS = {"homography_align": 4, "homography_warp": 1, "prototype_distance": 4, "greedy_coreset": 1}
LICENSE_SETUPTOOLS = 77  # the first that reads pyproject.toml's license
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short")


@dataclass(frozen=True)
class Job:
    """One process. ``missing`` says why it cannot run here.

    A word ``{seconds}`` of the command becomes the time that is left, by ``weight`` among the jobs that wait.
    """

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Places:
    """``results``: of measurements; ``folder``: of state and logs; ``tag``: of what is checked, for names in it."""

    results: Path
    folder: Path
    tag: str

    @property
    def measured(self) -> Path:
        """The cases that the suite has measured."""
        return self.folder / f"measured-{self.tag}.txt"


@dataclass(frozen=True)
class Part:
    """``jobs(places)``, ``at_once`` of them at a time, for about ``limit_s`` seconds together."""

    name: str
    says: str
    limit_s: float
    jobs: Callable[[Places], list[Job]]
    at_once: int = 1
    needs_gpu: bool = True


def _build(places: Places) -> list[Job]:
    """In place, without isolation. The second job imports what the first has built."""
    folder = ROOT
    if _setuptools_version() < LICENSE_SETUPTOOLS:
        folder = _without_pyproject(ROOT / "build" / "gpu-check")
    archs = os.environ.get("VSAD_CUDA_ARCHS", "native")
    environment = {"VSAD_CUDA": "1", "VSAD_CUDA_ARCHS": archs, "PATH": _path_with_nvcc()}
    check = "from vsad import _cpu, _cuda; from vsad.info import info; print(info()); print('both extensions import')"
    return [
        Job("compile", (sys.executable, "setup.py", "build_ext", "--inplace"), folder, environment),
        Job("import", (sys.executable, "-c", check)),
    ]


def _path_with_nvcc() -> str:
    path = os.environ.get("PATH", "")
    homes = (home / "bin" for home in _cuda_homes() if (home / "bin" / "nvcc").exists())
    return path if shutil.which("nvcc") else os.pathsep.join([path, *(str(folder) for folder in homes)])


def _setuptools_version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return int(version("setuptools").split(".")[0])
    except PackageNotFoundError:
        return LICENSE_SETUPTOOLS  # the job will say what is missing


def _without_pyproject(folder: Path) -> Path:
    """A folder of links to what the build needs; its ``vsad`` is the checkout's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("setup.py", "csrc", "vsad", "kernels", "bench", "tests"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)
    return folder


def _matrix(places: Places) -> list[Job]:
    """Triton compiles for every dtype and most samples, so that its jobs are the longest: smaller ones, and first."""
    names = [f"{op}-triton-cuda-{dtype}" for op in SHAPES for dtype in ("float32", "float16", "bfloat16")]
    names += [f"{op}-{backend}-cuda" for backend in ("cuda", "torch") for op in SHAPES]
    return [Job(name, (*PYTEST, "tests/test_ops.py", "-k", name)) for name in names]


def _contracts(places: Places) -> list[Job]:
    return [
        Job(
            f"{op}-{backend}",
            (*PYTEST, "tests/test_gpu.py", "-k", f"{op}-{backend}"),
            environment={"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # a pool a job would be too many
        )
        for backend in GPU_BACKENDS
        for op in SHAPES
    ]


def _large(places: Places) -> list[Job]:
    return [Job(backend, (*PYTEST, "--slow", "tests/test_gpu_large.py", "-k", backend)) for backend in GPU_BACKENDS]


def _sanitizer(places: Places) -> list[Job]:
    files = (home / "bin" / "compute-sanitizer" for home in _cuda_homes())
    tool = shutil.which("compute-sanitizer") or next((str(file) for file in files if file.exists()), None)
    missing = None if tool else "needs compute-sanitizer, of CUDA's toolkit"
    options = ("--error-exitcode", "99", "--print-limit", "20", "--target-processes", "application-only")
    script = (sys.executable, "-m", "tests.gpu_small")
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or a read beyond one tensor lands in the next
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


def _cuda_homes() -> list[Path]:
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return [Path(name) for name in (*named, "/usr/local/cuda")]


def _bench(places: Places) -> list[Job]:
    """What was measured before is named in a file, so that a case that was cut begins anew, and no other."""
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


@dataclass
class State:
    """How every job ended, in a small file that is written after each."""

    path: Path
    key: dict[str, Any]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, key: dict[str, Any]) -> State:
        """What is there, or nothing where the sources, the GPU or torch have changed since."""
        state = cls(path, key)
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["key"] == key:
                state.outcomes = {name: Outcome(**values) for name, values in stored["outcomes"].items()}
        return state

    def record(self, name: str, ended: Outcome) -> None:
        self.outcomes[name] = ended
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"key": self.key, "outcomes": {n: asdict(o) for n, o in self.outcomes.items()}}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        new.replace(self.path)  # cut off in the middle, the old one stays

    def passed(self, name: str) -> bool:
        return name in self.outcomes and self.outcomes[name].state == "passed"

    def forget_build(self) -> None:
        """An outcome without what it built, as on a fresh machine, is none."""
        if not all(any((ROOT / "vsad").glob(f"{module}*.so")) for module in ("_cpu", "_cuda")):
            for name in [n for n in self.outcomes if n.startswith("build/")]:
                del self.outcomes[name]


def fingerprint() -> str:
    """Of all sources, so that a checkout without git, or with changes, is told apart too."""
    digest = hashlib.sha256()
    folders = ("csrc", "kernels", "bench", "vsad", "tests")
    suffixes = (".py", ".h", ".cpp", ".cu")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    for path in sorted({p.resolve() for p in [*files, ROOT / "setup.py"] if p.is_file()}):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def machine_key() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"sources": fingerprint(), "gpu": gpu, "torch": torch.__version__, "python": sys.version.split()[0]}


def tag(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def run_part(part: Part, state: State, places: Places, seconds: float) -> None:
    """Run the jobs that have not passed; what does not end within ``seconds`` is cut."""
    waiting = [job for job in part.jobs(places) if not state.passed(f"{part.name}/{job.name}")]
    end = time.monotonic() + seconds
    running: list[_Process] = []
    try:
        while waiting or running:
            while waiting and len(running) < part.at_once:
                job = waiting.pop(0)
                name = f"{part.name}/{job.name}"
                if job.missing or time.monotonic() > end:
                    late = Outcome("cut", note="no time was left")
                    _finish(state, name, Outcome("skipped", note=job.missing) if job.missing else late)
                else:
                    share = job.weight / (job.weight + sum(later.weight for later in waiting))
                    words = {"{seconds}": f"{max(0.0, end - time.monotonic()) * share:.0f}"}
                    log = places.folder / "logs" / f"{name.replace('/', '-')}.log"
                    running.append(_Process(job, [words.get(word, word) for word in job.command], name, log))
            for process in list(running):
                if process.ended(cut=time.monotonic() > end):
                    running.remove(process)
                    _finish(state, process.name, process.outcome())
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()


def _finish(state: State, name: str, ended: Outcome) -> None:
    state.record(name, ended)
    print(f"{ended.state:8}{name:45}{ended.seconds:6.1f} s  {ended.note or ''}", flush=True)


class _Process:
    """A job that runs, in a process group of its own."""

    def __init__(self, job: Job, command: list[str], name: str, log: Path) -> None:
        self.name, self.log, self.cut_at = name, log, 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=job.folder,
                env={**os.environ, "PYTHONPATH": path, **job.environment}, start_new_session=True,
                # a shell's background jobs ignore it, and what they start inherits that
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        self.start = time.monotonic()

    def ended(self, cut: bool) -> bool:
        if self.process.poll() is not None:
            return True
        if cut and not self.cut_at:
            self.cut_at = time.monotonic()
            os.killpg(self.process.pid, signal.SIGINT)
        elif self.cut_at and time.monotonic() > self.cut_at + GRACE_S:
            self.kill()
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self) -> Outcome:
        seconds = round(time.monotonic() - self.start, 1)
        return outcome(self.process.returncode, self.log.read_text(errors="replace"), seconds, bool(self.cut_at))


def run(parts: Iterable[Part], state: State, places: Places, total_s: float = TOTAL_S) -> None:
    """Every part may take what its successors do not need."""
    todo = [p for p in parts if not all(state.passed(f"{p.name}/{job.name}") for job in p.jobs(places))]
    end = time.monotonic() + total_s
    for i, part in enumerate(todo):
        left = end - time.monotonic() - sum(later.limit_s for later in todo[i + 1 :])
        print(f"--- {part.name}: {part.says} ({left:.0f} s)", flush=True)
        if part.needs_gpu and state.key["gpu"] is None:
            for job in part.jobs(places):
                state.record(f"{part.name}/{job.name}", Outcome("skipped", note="needs a GPU that torch can use"))
            print("needs a GPU that torch can use")
        else:
            run_part(part, state, places, left)


def exit_code(outcomes: Iterable[Outcome], nothing_proved: bool = False) -> int:
    """0: passed, or skipped with a reason; 1: something failed; 2: there is no GPU; 3: something was cut off."""
    states = {o.state for o in outcomes}
    return 1 if "failed" in states else 2 if nothing_proved else 3 if "cut" in states else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build, test and measure on a machine with a GPU, without a network.")
    parser.add_argument("--part", action="append", choices=[*PARTS, "summary"], help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the parts and how their jobs ended")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--again", action="store_true", help="repeat what has passed")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "gpu-check", help="of state.json and logs")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="of measurements and summary")
    options = parser.parse_args(arguments)
    key = machine_key()
    places = Places(options.results.resolve(), options.folder.resolve(), tag(key))
    parts = [part for name, part in PARTS.items() if options.part is None or name in options.part]
    if options.dry_run:
        for part in parts:
            for job in part.jobs(places):
                print(f"{part.name}/{job.name}: {job.missing or ' '.join(job.command)}")
        return 0
    state = State.load(places.folder / "state.json", key)
    state.forget_build()
    if options.list:
        for part in parts:
            print(f"{part.name:10} {part.limit_s:4.0f} s  {part.says}")
            for name, ended in state.outcomes.items():
                if name.startswith(f"{part.name}/"):
                    print(f"    {ended.state:8}{name:45}{ended.note or ''}")
        return 0
    if options.again:
        chosen = {part.name for part in parts}
        state.outcomes = {n: o for n, o in state.outcomes.items() if n.split("/")[0] not in chosen}
        if "bench" in chosen:
            places.measured.unlink(missing_ok=True)
    run(parts, state, places)
    from vsad.bench.gpu_summary import write

    print(write(state.outcomes, key, places.results if key["gpu"] else places.folder))  # without a GPU: not to keep
    asked = [o for name, o in state.outcomes.items() if name.split("/")[0] in {part.name for part in parts}]
    return exit_code(asked, nothing_proved=key["gpu"] is None and any(part.needs_gpu for part in parts))


if __name__ == "__main__":
    sys.exit(main())
