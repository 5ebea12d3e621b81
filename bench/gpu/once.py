"""Calls our CUDA kernels on cases of the suite: what a profiler watches, or what each kernel of a call takes.

    python -m vsad.bench.gpu.once homography_warp-forward-B40-C320-H64-W64-modebilinear-paddingzeros-bfloat16-cuda
    python -m vsad.bench.gpu.once --times prototype_distance

A name stands for all cases whose names begin so.
"""

from __future__ import annotations

import argparse
import re

import torch

from vsad.bench import operators
from vsad.bench.cases import CUDA_CASES
from vsad.bench.peers import Run
from vsad.bench.peers.own import FUNCTIONS

CALLS = 5  # that the times are the mean of


def times_of(run: Run) -> list[tuple[str, int, float]]:
    """``(kernel, launches per call, microseconds per call)`` of all that runs on the GPU in a call, in a warm L2."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    rows = [(e.key, e.count // CALLS, e.self_device_time_total / CALLS) for e in profile.key_averages()]
    return sorted(rows, key=lambda row: -row[2])


def short(kernel: str) -> str:
    """The kernel's name without arguments, namespaces and return type."""
    name = re.sub(r"^void |\(anonymous namespace\)::|<unnamed>::|vsad::cuda::", "", kernel)
    return re.sub(r"\((?!anonymous).*$", "", name)[:90]


def main() -> None:
    parser = argparse.ArgumentParser(description="Call our CUDA kernels on cases of the suite, twice each.")
    parser.add_argument("cases", nargs="+", help="names of cases, or how they begin")
    parser.add_argument("--times", action="store_true", help="print what each kernel takes")
    options = parser.parse_args()
    for case in CUDA_CASES:
        if not case.id.startswith(tuple(options.cases)):
            continue
        run = FUNCTIONS[case.operator](operators.of(case).inputs(case), backend="cuda")
        for _ in range(2):
            run()
        torch.cuda.synchronize()
        if options.times:
            print(case.id)
            for kernel, launches, microseconds in times_of(run):
                print(f"    {microseconds:10.1f} us {launches:4} x {short(kernel)}")


if __name__ == "__main__":
    main()
