"""What the memory, or the tensor cores, would need for an operator's work alone. Nobody can take these as results."""

from __future__ import annotations

import torch

from vsad.bench import operators
from vsad.bench.cases import COPY, PRODUCT
from vsad.bench.operators import Problem

from . import Peer, Run

BLOCK_BYTES = 1 << 30  # the memory of one block of products


def copy(problem: Problem) -> Run:
    """A copy that reads and writes, taken together, the number of bytes that the operator must."""
    size = int(operators.of(problem.case).bytes(problem.case)) // 2
    device = operators.device(problem.case)
    source, to = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: to.copy_(source)


def product(problem: Problem) -> Run:
    """``features @ prototypes.T`` in blocks, every block written over the last."""
    f, p = (problem.tensors[name].bfloat16() for name in ("features", "prototypes"))
    rows = max(1, min(len(f), BLOCK_BYTES // (2 * len(p))))
    out = f.new_empty(rows, len(p))

    def run() -> None:
        for block in f.split(rows):
            torch.mm(block, p.mT, out=out[: len(block)])

    return run


PEERS = [
    Peer(COPY, {"homography_align": copy, "homography_warp": copy}, devices=("cuda",)),
    Peer(PRODUCT, {"prototype_distance": product}, devices=("cuda",)),
]
