"""Launcher of the Triton kernels in ``kernels/greedy_coreset``."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
from torch import Tensor

from vsad.kernels.common.rounding import SAMPLE, STATISTICS, survey_kernel
from vsad.kernels.greedy_coreset import launch_shapes as shapes
from vsad.kernels.greedy_coreset.select import INDEX_BITS, begin_kernel, pick_kernel

from .call import CoresetCall


def forward(call: CoresetCall) -> tuple[Tensor]:
    """``(size,)`` int64 indices. Needs memory for a copy of the features in float16, and 12 bytes per point."""
    with torch.cuda.device_of(call.features):
        return (_pick_all(call.features, call.size, call.first_pick()),)


def _pick_all(features: Tensor, size: int, start: int) -> Tensor:
    M, C = features.shape
    width = shapes.padded_width(C)
    block_m = shapes.BLOCK_M if features.is_cuda else shapes.INTERPRETED_BLOCK_M
    block_c = min(width, shapes.BLOCK_C)
    rows = triton.cdiv(M, block_m) * block_m
    programs = min(rows // block_m, shapes.PROGRAMS_PER_MULTIPROCESSOR * _multiprocessors(features.device))
    new = features.new_empty
    center, statistics = new((C,), dtype=torch.float32), new((STATISTICS.value,), dtype=torch.float32)
    count = new((1,), dtype=torch.int32)
    rounded, radius = new((rows, width), dtype=torch.float16), new((M,), dtype=torch.float32)
    nearest = new((M,), dtype=torch.float64)
    leaders = features.new_full((2, programs), INDEX_BITS.value - start, dtype=torch.int64)
    picks = new((size,), dtype=torch.int64)
    matrix = M, C, *features.stride()
    survey_kernel[(1,)](features, center, statistics, count, *matrix, SIZE=SAMPLE, BLOCK_C=64, num_warps=8)
    begin_kernel[(rows // shapes.BLOCK_N,)](
        features, center, statistics, rounded, radius, nearest, *matrix, width,
        BLOCK_N=shapes.BLOCK_N, BLOCK_C=block_c,
    )  # fmt: skip
    leading = triton.next_power_of_2(programs)
    for i in range(size):
        pick_kernel[(programs,)](
            features, rounded, radius, statistics, nearest, leaders, picks, i, *matrix, programs,
            WIDTH=width, LEADERS=leading, BLOCK_M=block_m, BLOCK_C=block_c, **shapes.OPTIONS,
        )  # fmt: skip
    return picks


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
