"""The suite's instruments on a GPU: a clock of events, peak memory, ceilings, and what the GPU is."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

MB = 1 << 20
FLUSH_BYTES = 512 * MB  # written before every timed call: several times any L2
HIDE_CYCLES = 2_000_000  # that the GPU waits before every timed call, about a millisecond: the launch is ready by then
COPY_BYTES = tuple(n * MB for n in (16, 128, 1024, 4096))  # read and written
SIDE = 8192  # the side of the square matrices whose product shows the peak


class Clock:
    """Seconds of one call by the GPU's own events, from a cold L2 and with the queue already filled."""

    def __init__(self) -> None:
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, run: Callable[[], Any]) -> float:
        self.flush.zero_()
        torch.cuda._sleep(HIDE_CYCLES)
        self.start.record()
        run()
        self.end.record()
        self.end.synchronize()
        return float(self.start.elapsed_time(self.end)) / 1e3


def peak_bytes(function: Callable[[], Any]) -> tuple[int, float]:
    """Call the function; say how far that raises torch's allocated memory, result included, and the seconds."""
    clean()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    del result
    return max(0, torch.cuda.max_memory_allocated() - before), seconds


def clean() -> None:
    """Give back what nobody holds, so that the next peer finds the whole memory."""
    gc.collect()
    torch.cuda.empty_cache()


def available_bytes() -> float:
    clean()
    return float(torch.cuda.mem_get_info()[0])


def works() -> bool:
    """Whether the context still does; after an illegal access nothing does until the process ends."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def ceilings() -> dict[str, Any]:
    """Best of some runs, in GFLOP/s and GB/s: matrix products by torch (float32 without TF32), and device copies."""
    clock = Clock()

    def best(function: Callable[..., Any], *arguments: Any) -> float:
        function(*arguments)
        return min(clock(lambda: function(*arguments)) for _ in range(10))

    found: dict[str, Any] = {}
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        for name in ("float32", "bfloat16"):
            a = torch.randn(SIDE, SIDE, device="cuda").to(getattr(torch, name))
            found[name] = 2 * SIDE**3 / best(torch.mm, a, a) / 1e9
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        i = torch.randint(-100, 100, (SIDE, SIDE), dtype=torch.int8, device="cuda")
        found["int8"] = 2 * SIDE**3 / best(torch._int_mm, i, i.t()) / 1e9
    except RuntimeError:
        found["int8"] = None
    found["copy"] = {}
    for size in COPY_BYTES:
        source = torch.ones(size // 8, device="cuda")  # half is read, half written
        to = torch.empty_like(source)
        found["copy"][str(size)] = size / best(to.copy_, source) / 1e9
    clean()
    return found


def describe() -> dict[str, Any]:
    p = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": p.name,
        "memory_gb": round(p.total_memory / 1e9),
        "multiprocessors": p.multi_processor_count,
        "l2_mb": round(getattr(p, "L2_cache_size", 0) / MB),
        "capability": f"{p.major}.{p.minor}",
        "cuda": torch.version.cuda,
    }
