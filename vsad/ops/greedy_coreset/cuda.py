"""Launcher of the kernel in ``csrc/greedy_coreset/cuda``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.stream import stream_of
from ..common.tensors import DTYPES, pointer
from .call import CoresetCall

SAMPLE_ROWS = 1024  # any center and spread give the same result; those of this many rows are near enough


def forward(call: CoresetCall) -> tuple[Tensor]:
    """``(size,)`` int64 indices. Needs memory for all rows in float16, and 20 bytes per point."""
    features, size, start = call.features, call.size, call.first_pick()
    M = features.shape[0]
    if features.shape[1] == 0:
        features = features.new_zeros((M, 1))  # all distances are zero then, too
    C = features.shape[1]
    rows = features if features.stride(1) == 1 or C == 1 else features.contiguous()
    picks = features.new_empty((size,), dtype=torch.int64)
    sample = rows[:: M // SAMPLE_ROWS + 1].float()
    center = sample.mean(0).nan_to_num_(nan=0, posinf=0, neginf=0)
    spread = (sample - center).abs_().nan_to_num_(nan=0, posinf=0).amax()
    with stream_of(features) as stream:
        dtype = DTYPES[features.dtype]
        workspace = features.new_empty((_cuda.greedy_coreset_workspace(M, C, dtype),), dtype=torch.uint8)
        _cuda.greedy_coreset(
            dtype=dtype,
            sizes=(M, C, size, start),
            features=(pointer(rows), rows.stride(0)),
            center=pointer(center),
            spread=pointer(spread),
            picks=pointer(picks),
            workspace=pointer(workspace),
            stream=stream,
        )
    return (picks,)
