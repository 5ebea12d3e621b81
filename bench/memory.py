"""Peak memory of a call, with everything that C and C++ code allocates."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vsad.bench import cuda

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def peak_bytes(function: Callable[[], Any], device: str = "cpu") -> tuple[int | None, float]:
    """Call the function; say how far that raises the process's resident memory, result included, and the seconds.

    On a GPU: its own memory, as torch allocates it.

    The bytes are None where there is no Linux to ask. The system's own high-water mark is set back before the call.
    Call the function once before: what it loads and keeps (code, thread pools) is not counted, and freed memory is
    given back to the system first.
    """
    if device == "cuda":
        return cuda.peak_bytes(function)
    gc.collect()
    before = _reset()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    after = _status("VmHWM") if before is not None else 0
    del result
    return None if before is None else max(0, after - before), seconds


def _reset() -> int | None:
    """Resident bytes now, with the high-water mark set back to them."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
