"""Launch shapes of the Triton kernels of greedy_coreset, and the variants that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton

from vsad.kernels.common.variants import Variant, signature
from vsad.kernels.greedy_coreset.select import begin_kernel, pick_kernel

BLOCK_N, BLOCK_M, BLOCK_C = 16, 64, 128  # points of begin_kernel and of pick_kernel, channels
INTERPRETED_BLOCK_M = 512  # the interpreter's time is proportional to the number of blocks
PROGRAMS_PER_MULTIPROCESSOR = 8
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def padded_width(channels: int) -> int:
    """Channels of a rounded row: a multiple of a block, or one smaller block."""
    whole_blocks: int = triton.cdiv(channels, BLOCK_C) * BLOCK_C
    smaller: int = max(16, triton.next_power_of_2(channels))
    return whole_blocks if channels > BLOCK_C else smaller


def variants() -> Iterator[Variant]:
    """The variants that ship: kernel, signature, constants, options, and instructions wanted in machine code."""
    pointers = {"rounded": "*fp16", "nearest": "*fp64", "leaders": "*i64", "picks": "*i64"}
    pointers |= dict.fromkeys(("center", "statistics", "radius"), "*fp32")
    begin: dict[str, Any] = {"BLOCK_N": BLOCK_N, "BLOCK_C": BLOCK_C}
    pick: dict[str, Any] = {"WIDTH": BLOCK_C, "LEADERS": 2048, "BLOCK_M": BLOCK_M, "BLOCK_C": BLOCK_C}
    for dtype in ("*fp32", "*fp16", "*bf16"):
        given = {**pointers, "features": dtype}
        yield begin_kernel, signature(begin_kernel, given, begin), begin, OPTIONS, ()
        yield pick_kernel, signature(pick_kernel, given, pick), pick, OPTIONS, ("LDG.E.*128", "DADD|DFMA")
