"""Calls our CUDA kernels on one case, twice: what a profiler watches.

python -m vsad.bench.gpu.once homography_warp-forward-B40-C320-H64-W64-modebilinear-paddingzeros-bfloat16-cuda
"""

from __future__ import annotations

import sys

import torch

from vsad.bench import operators
from vsad.bench.cases import CUDA_CASES
from vsad.bench.peers.own import FUNCTIONS


def main(name: str) -> None:
    (case,) = (case for case in CUDA_CASES if case.id == name)
    run = FUNCTIONS[case.operator](operators.of(case).inputs(case), backend="cuda")
    for _ in range(2):
        run()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1])
