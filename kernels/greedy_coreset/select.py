"""Triton kernels of greedy_coreset: one launch a pick, and nothing waits for the host.

A launch first finds its pick: the greatest of what the programs of the launch before left, one number each. Then it
compares the pick with all points: in float16, which bounds the distance from below; only points that may be nearer to
it than to all picks before are measured, in float64 as the reference does. A squared distance has 24 bits then, so
that the index fits below them, and one maximum finds the farthest point and, of equals, the lowest index.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsad.kernels.common.device import on_its_device
from vsad.kernels.common.rounding import INVERSE, SAMPLE, STATISTICS, UNIT, lost, round_rows, survey_kernel
from vsad.kernels.common.variants import signature

# 200,000 x 128 in float32, 20,000 picks, on an H200. A pick reads 200,000 x (256 + 8 + 4) bytes = 54 MB: 12.5 us at
# 4.3 TB/s, less as far as the 60 MB of L2 keep them. Its arithmetic is 200,000 x 128 x 3 instructions of float32, 2.7
# us of 132 SMs x 128 lanes. In float64 without screening it would read 104 MB: 24 us. A launch costs the host some 10
# us, which may bind. Expected: 20,000 x 13 us = 0.26 s, bound by memory and launches about equally.
BLOCK_M, BLOCK_C = 64, 128
PROGRAMS = 8  # for each processor
EXACT_C = tl.constexpr(32)  # channels measured together
PLACE = tl.constexpr((1 << 29) - 1)  # the bits below a squared distance of 24 bits


@triton.jit
def begin_kernel(
    features, center, statistics, rounded, radius, nearest, M, C, row, column, WIDTH,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rounded points, how far rounding moved them (infinitely where they do not fit), and no pick near them."""
    m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inverse = tl.load(statistics + INVERSE)
    square, losses, fit = round_rows(features, center, rounded, inverse, m, M, C, row, column, WIDTH, BLOCK_N, BLOCK_C)
    length = tl.sqrt_rn(tl.where(fit, square, 0.0))
    moved = lost(tl.where(fit, losses, 0.0), length, C) * 1.0001
    tl.store(radius + m, tl.where(fit, moved, float("inf")), mask=m < M)
    finite = tl.full((BLOCK_N, BLOCK_C), 1, tl.int32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        at = features + m.to(tl.int64)[:, None] * row + c.to(tl.int64)[None, :] * column
        x = tl.load(at, mask=(m < M)[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        finite &= (tl.abs(x) < float("inf")).to(tl.int32)
    tl.store(nearest + m, tl.where(tl.min(finite, 1) != 0, float("inf"), 0.0).to(tl.float64), mask=m < M)


@triton.jit
def _measure(features, m, pick, needed, C, row, column, BLOCK_M: tl.constexpr):
    """Squared distances in float64, rounded to 24 bits."""
    sums = tl.zeros((BLOCK_M, EXACT_C), tl.float64)
    for start in range(0, C, EXACT_C):
        wide = (start + tl.arange(0, EXACT_C)).to(tl.int64)
        at = features + wide[None, :] * column
        mask = needed[:, None] & (wide < C)[None, :]
        x = tl.load(at + m.to(tl.int64)[:, None] * row, mask=mask, other=0.0).to(tl.float64)
        y = tl.load(at + pick.to(tl.int64) * row, mask=(wide < C)[None, :], other=0.0).to(tl.float64)
        sums += tl.where(mask, (x - y) * (x - y), 0.0)
    bits = tl.sum(sums, 1).to(tl.int64, bitcast=True)
    return ((bits + (1 << 28)) & -(1 << 29)).to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=["i"])
def pick_kernel(
    features, rounded, radius, statistics, nearest, leaders, picks, i, M, C, row, column, programs,
    WIDTH: tl.constexpr, LEADERS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Pick number i, and the farthest point of every program afterwards."""
    program = tl.program_id(0)
    lane = tl.arange(0, LEADERS)
    before = leaders + ((i + 1) % 2) * programs
    first = tl.max(tl.load(before + lane, mask=lane < programs, other=-0x7FFFFFFFFFFFFFFF), 0)
    pick = (first & PLACE) ^ PLACE
    if program == 0:
        tl.store(picks + i, pick)
    inverse = tl.load(statistics + INVERSE).to(tl.float64)
    pick_radius = tl.load(radius + pick)

    farthest = tl.full((BLOCK_M,), -0x7FFFFFFFFFFFFFFF, tl.int64)
    blocks = tl.cdiv(M, BLOCK_M)
    for block in range(program, blocks, programs):
        m = block * BLOCK_M + tl.arange(0, BLOCK_M)
        exists = m < M
        sums = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for start in range(0, WIDTH, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            x = tl.load(rounded + m.to(tl.int64)[:, None] * WIDTH + c[None, :]).to(tl.float32)
            y = tl.load(rounded + pick * WIDTH + c).to(tl.float32)
            sums += (x - y[None, :]) * (x - y[None, :])
        near = tl.load(nearest + m, mask=exists, other=-1.0)
        # |x - y| >= |rounded x - rounded y| - what rounding moved them; the last factors cover rounding here
        apart = tl.sqrt_rn(tl.sum(sums, 1)) * (1 - (WIDTH * 0.0625 + 256) * UNIT)
        apart = tl.maximum(apart - tl.load(radius + m, mask=exists, other=0.0) - pick_radius, 0.0)
        needed = ~(apart * apart * 0.99999 >= (near * inverse * inverse).to(tl.float32) * 1.00001) & exists
        if tl.max(needed.to(tl.int32), 0) > 0:
            squared = _measure(features, m, pick, needed, C, row, column, BLOCK_M)
            near = tl.where(needed & (squared < near), squared, near)  # NaN is no distance
            tl.store(nearest + m, near, mask=needed)
        near = tl.where(m == pick, -1.0, near)  # never again, even where all distances are zero
        tl.store(nearest + m, near, mask=m == pick)
        key = near.to(tl.int64, bitcast=True) | (m ^ PLACE).to(tl.int64)
        farthest = tl.maximum(farthest, tl.where(exists, key, -0x7FFFFFFFFFFFFFFF))
    tl.store(leaders + (i % 2) * programs + program, tl.max(farthest, 0))


@on_its_device
def forward(features: Tensor, size: int, start: int) -> Tensor:
    """``(size,)`` int64 indices. Needs memory for a copy of the features in float16, and 12 bytes a point."""
    M, C = features.shape
    width = triton.cdiv(max(C, 1), BLOCK_C) * BLOCK_C if C > BLOCK_C else max(16, triton.next_power_of_2(C))
    block_c = min(width, BLOCK_C)
    block_m = BLOCK_M if features.is_cuda else 512  # the interpreter's time goes by the number of blocks
    rows = triton.cdiv(M, block_m) * block_m
    programs = min(rows // block_m, PROGRAMS * _processors(features.device))
    new = features.new_empty
    center, statistics = new((C,), dtype=torch.float32), new((STATISTICS.value,), dtype=torch.float32)
    count = new((1,), dtype=torch.int32)
    rounded, radius = new((rows, width), dtype=torch.float16), new((M,), dtype=torch.float32)
    nearest = new((M,), dtype=torch.float64)
    leaders = features.new_full((2, programs), PLACE.value - start, dtype=torch.int64)
    picks = new((size,), dtype=torch.int64)
    place = M, C, *features.stride()
    survey_kernel[(1,)](features, center, statistics, count, *place, SIZE=SAMPLE, BLOCK_C=64, num_warps=8)
    begin_kernel[(rows // 16,)](
        features, center, statistics, rounded, radius, nearest, *place, width, BLOCK_N=16, BLOCK_C=block_c
    )
    leading = triton.next_power_of_2(programs)
    for i in range(size):
        pick_kernel[(programs,)](
            features, rounded, radius, statistics, nearest, leaders, picks, i, *place, programs,
            WIDTH=width, LEADERS=leading, BLOCK_M=block_m, BLOCK_C=block_c, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return picks


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any], tuple[str, ...]]]:
    """What ships, for compiling ahead of time: kernel, signature, constants, options, instructions wanted."""
    pointers = {"rounded": "*fp16", "nearest": "*fp64", "leaders": "*i64", "picks": "*i64"}
    pointers |= dict.fromkeys(("center", "statistics", "radius"), "*fp32")
    options = {"num_warps": 4, "enable_fp_fusion": True}
    for dtype in ("*fp32", "*fp16", "*bf16"):
        given = {**pointers, "features": dtype}
        for kernel, constants, wanted in (
            (begin_kernel, {"BLOCK_N": 16, "BLOCK_C": BLOCK_C}, ()),
            (
                pick_kernel,
                {"WIDTH": BLOCK_C, "LEADERS": 2048, "BLOCK_M": BLOCK_M, "BLOCK_C": BLOCK_C},
                ("LDG.E.*128", "DADD|DFMA"),
            ),
        ):
            yield kernel, signature(kernel, given, constants), constants, options, wanted
