"""Launch shapes of the Triton kernels of greedy_coreset."""

from __future__ import annotations

import triton

BLOCK_N, BLOCK_M, BLOCK_C = 16, 64, 128  # points of begin_kernel and of pick_kernel, channels
INTERPRETED_BLOCK_M = 512  # the interpreter's time is proportional to the number of blocks
PROGRAMS_PER_MULTIPROCESSOR = 8
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def padded_width(channels: int) -> int:
    """Channels of a rounded row: a multiple of a block, or one smaller block."""
    whole_blocks: int = triton.cdiv(channels, BLOCK_C) * BLOCK_C
    smaller: int = max(16, triton.next_power_of_2(channels))
    return whole_blocks if channels > BLOCK_C else smaller
