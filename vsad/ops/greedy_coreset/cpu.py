"""Launcher of the kernels in ``csrc/greedy_coreset/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ..common.tensors import DTYPES, pointer
from ..common.threads import threads
from .call import CoresetCall

SAMPLE_ROWS = 1024  # any center gives the same result; the mean of this many rows is near enough to the mean of all


def forward(call: CoresetCall) -> tuple[Tensor]:
    """``(size,)`` int64 indices. Needs memory for the picks' rows in float32, and 25 bytes per point."""
    features, size, start = call.features, call.size, call.first_pick()
    M, C = features.shape
    rows = features if features.stride(1) == 1 or C == 1 else features.contiguous()
    picks = features.new_empty((size,), dtype=torch.int64)
    picks[0] = start
    sample = rows[:: M // SAMPLE_ROWS + 1]
    center = sample.mean(0, dtype=torch.float32).nan_to_num(nan=0, posinf=0, neginf=0).contiguous()
    _cpu.greedy_coreset(
        dtype=DTYPES[features.dtype],
        threads=threads(M * size * C),
        sizes=(M, C, size),
        features=(pointer(rows), rows.stride(0)),
        center=pointer(center),
        picks=pointer(picks),
    )
    return (picks,)
