"""What a call costs the processor before its kernel runs, on tensors so small that kernels take next to nothing.

    python -m vsad.bench.gpu.host --device cuda

On the CPU the kernel's own time is in it, a microsecond or two.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import vsad.ops
from vsad.ops.common.launches import Launches
from vsad.ops.homography_align.registration import LAUNCHES as ALIGN
from vsad.ops.homography_warp.registration import LAUNCHES as WARP
from vsad.ops.prototype_distance.registration import LAUNCHES as DISTANCE

ROUNDS, CALLS = 9, 300
Call = Callable[[], object]


def calls(device: str, dtype: torch.dtype) -> dict[str, tuple[Call, Launches | None]]:
    """A call of every operator on small channels-last tensors, and ``torch.add`` beside them."""
    view = torch.randn(1, 2, 8, 8, 16, device=device, dtype=dtype).movedim(-1, 2)
    homography, neighbors = torch.eye(3, device=device).expand(1, 2, 1, 3, 3).contiguous(), [[1], [0]]
    graph, image, one = torch.tensor(neighbors, device=device), view[0], homography[0, 0]
    rows, bank = torch.randn(64, 64, device=device, dtype=dtype), torch.randn(256, 64, device=device, dtype=dtype)
    packed = vsad.ops.pack_prototypes(bank)
    return {
        "torch.add": (lambda: torch.add(rows, rows), None),
        "homography_warp": (lambda: vsad.ops.homography_warp(image, one), WARP),
        "homography_align": (lambda: vsad.ops.homography_align(view, view, view, homography, graph), ALIGN),
        "prototype_distance": (lambda: vsad.ops.prototype_distance(rows, packed), DISTANCE),
    }


def microseconds(call: Call, launches: Launches | None, device: str, *, known: bool) -> float:
    """The median of rounds of calls, those of a signature that is known or that each finds for itself."""
    rounds = []
    for _ in range(1 + ROUNDS):
        begin = time.perf_counter()
        for _ in range(CALLS):
            if launches is not None and not known:
                launches.forget()
            call()
        rounds.append((time.perf_counter() - begin) / CALLS * 1e6)
        if device == "cuda":
            torch.cuda.synchronize()
    return statistics.median(rounds[1:])  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a call costs the processor.")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    torch.set_num_threads(1)
    print("microseconds of a call     like one before    first of its kind")
    with torch.no_grad():
        for name, (call, launches) in calls(options.device, dtype).items():
            again = microseconds(call, launches, options.device, known=True)
            first = f"{microseconds(call, launches, options.device, known=False):20.1f}" if launches else ""
            print(f"{name:24} {again:18.1f} {first}", flush=True)


if __name__ == "__main__":
    main()
