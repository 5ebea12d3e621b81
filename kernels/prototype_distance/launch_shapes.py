"""Launch shapes of the Triton kernels of prototype_distance."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton

from vsad.kernels.common.rounding import SAMPLE

BRUTE_FORCE = {"BLOCK_Q": 32, "BLOCK_P": 64}
INTERPRETED = {"BLOCK_Q": 32, "BLOCK_P": 1024}  # the interpreter's time is proportional to the number of blocks
PACK = {"BLOCK_N": 16, "BLOCK_C": 128}
SURVEY = {"SIZE": SAMPLE, "BLOCK_C": 64}
GRAD = {"BLOCK_N": 16, "BLOCK_C": 128}


class Screen(NamedTuple):
    """Launch shape of ``screen_kernel``: a program's features, prototypes and channels of one product."""

    block_m: int
    block_p: int
    block_c: int
    num_warps: int
    num_stages: int


def screen_shape(C: int, k: int, capability: tuple[int, int]) -> Screen:
    """Launch shape for C channels and k neighbors on a GPU."""
    wide = 1 if k > 16 else 2
    major = capability[0]
    if major in (9, 10):  # 227 KB of shared memory; one warp group's product on sm_100 needs the registers of two
        narrow_warps = 4 if major == 9 and k <= 4 else 8
        if C <= 128:
            return Screen(64 * wide, 128, max(16, triton.next_power_of_2(C)), narrow_warps, 2)
        if C <= 256:
            return Screen(64 * wide, 128, 256, 8, 2)
        return Screen(64 * wide, 256 if k == 1 else 128, 64, 8, 4)
    small = capability != (8, 0)  # 99 KB of shared memory, otherwise 163 KB
    return Screen(64 * wide, 128, min(64, max(16, triton.next_power_of_2(C))), 8, 2 if small else 3)


def screen_constants(C: int, k: int, shape: Screen, capability: tuple[int, int]) -> dict[str, Any]:
    blocks = {"BLOCK_M": shape.block_m, "BLOCK_P": shape.block_p, "BLOCK_C": shape.block_c}
    steps = triton.cdiv(C, shape.block_c)
    # inserting behind a branch lets copies stay in flight, but Triton 3.6 cannot compile that for sm_100
    how = {"DESCRIBED": capability >= (9, 0), "SKIPS": capability[0] not in (10, 11)}
    return {**blocks, "STEPS": steps, "LIST": list_size(k), **how}


def list_size(k: int) -> int:
    """Candidate cells that a feature keeps: some more than the k that may be needed."""
    return int(triton.next_power_of_2(k + 3))
