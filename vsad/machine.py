"""What this machine has of what vsad can use. It is found without importing torch, which takes seconds, by asking
the compiled modules, the files of packages and CUDA's driver; only of a torch for ROCm torch itself is asked.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

# The kinds of backends that an operator may have, in order of preference.
BACKENDS = ("cpu", "cuda", "triton")
# How often a thread of OpenMP looks for work before it sleeps, about 0.1 ms.
_SPINS = 10_000


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they have no work, unless the user has said how they wait.

    Threads that spin, for 3 ms by default, keep those of other processes from working: a detection beside other work
    took eight times as long. Threads that sleep at once are often woken on the core of the one that has work for them,
    and then two do the work of one. So they look for 0.1 ms, and on a machine that is busy not at all.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        if not _is_busy():
            os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def _is_busy() -> bool:
    """Whether as many threads as there are cores run beside this one; True where that cannot be known."""
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
        return running - 1 >= len(os.sched_getaffinity(0))
    except (OSError, AttributeError):
        return True


def missing(backend: str) -> str | None:
    """Why no operator's backend of this kind is usable here; None where nothing is missing."""
    if backend == "triton":
        return None if importlib.util.find_spec("triton") else "needs triton; pip install 'vsad[triton]'"
    try:
        if backend == "cpu":
            import vsad._cpu
        else:
            import vsad._cuda  # noqa: F401
    except ImportError as error:
        compiler = "a C++ compiler" if backend == "cpu" else "CUDA's compiler, nvcc"
        return f"needs vsad._{backend}, which does not import here ({error}); reinstall vsad with {compiler}"
    return None


def devices(backend: str) -> tuple[str, ...]:
    """The types of devices whose tensors a kind of backend takes here.

    A build that emulates CUDA, for tests, takes those of the CPU, and so does Triton with ``TRITON_INTERPRET=1``.
    """
    if backend == "triton":
        return ("cpu",) if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)
    if backend == "cuda" and missing(backend) is None:
        from vsad import _cuda

        return ("cpu",) if _cuda.EMULATED else ("cuda",)
    return (backend,)


@cache
def torch_build() -> dict[str, Any]:
    """``__version__`` of torch, and the ``cuda`` and ``hip`` that it was built with, None for none.

    Raises:
        ImportError: torch is not installed.
    """
    if "torch" in sys.modules:
        return vars(sys.modules["torch"].version) | {"__version__": sys.modules["torch"].__version__}
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ImportError("vsad needs torch, which is not installed here; pip install torch")
    return runpy.run_path(str(Path(found.origin).with_name("version.py")))


@cache
def gpus() -> tuple[str, ...]:
    """The names of the GPUs that torch can use here."""
    if torch_build().get("hip") is not None:
        import torch

        return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return () if why_no_gpu() else _Driver.open().names()


@cache
def why_no_gpu() -> str | None:
    """Why torch can use no GPU here; None if it can."""
    build = torch_build()
    if build.get("hip") is not None:
        return None if gpus() else "ROCm finds none"
    if build.get("cuda") is None:
        return "torch is built without CUDA"
    try:
        driver = _Driver.open()
    except OSError as error:
        return f"CUDA's driver does not load ({error})"
    if not driver.count():
        return f"CUDA's driver finds none ({driver.why})"
    version, needed = driver.version(), int(str(build["cuda"]).partition(".")[0])
    # A driver runs whatever was built for its major version of CUDA or an earlier one.
    if version // 1000 < needed:
        return f"the driver is of CUDA {version // 1000}.{version % 1000 // 10}, and torch needs {needed}; renew it"
    return None


class _Driver:
    """The few functions of CUDA's driver that tell what GPUs there are."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        failed = library.cuInit(0)
        self.why = f"error {failed}" if failed else "no device"
        self._ready = not failed

    @classmethod
    @cache
    def open(cls) -> _Driver:
        """Load the library.

        Raises:
            OSError: there is none.
        """
        return cls(ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"))

    def count(self) -> int:
        """How many GPUs there are, of those that ``CUDA_VISIBLE_DEVICES`` leaves."""
        return self._number("cuDeviceGetCount") if self._ready else 0

    def version(self) -> int:
        """The newest CUDA that the driver knows: 12040 for 12.4."""
        return self._number("cuDriverGetVersion")

    def names(self) -> tuple[str, ...]:
        """What the GPUs are called."""
        found = []
        for index in range(self.count()):
            name, device = ctypes.create_string_buffer(256), ctypes.c_int()
            self._library.cuDeviceGet(ctypes.byref(device), index)
            self._library.cuDeviceGetName(name, len(name), device)
            found.append(name.value.decode(errors="replace"))
        return tuple(found)

    def _number(self, function: str) -> int:
        number = ctypes.c_int()
        return 0 if getattr(self._library, function)(ctypes.byref(number)) else number.value
