"""Peak memory of a call, with everything that C and C++ code allocates."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def peak_bytes(function: Callable[[], Any]) -> int | None:
    """How far a call raises the process's resident memory, its result included; None where Linux is not there to say.

    The system's own high-water mark is set back before the call. Call the function once before: what it loads and
    keeps (code, thread pools) is not counted, and freed memory is given back to the system first.
    """
    if not sys.platform.startswith("linux"):
        return None
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")
        before = _status("VmRSS")
        result = function()
        after = _status("VmHWM")
    except (OSError, AttributeError):
        return None
    del result
    return max(0, after - before)


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
