"""Variants of the Triton kernels of greedy_coreset that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vsad.kernels.greedy_coreset.launch_shapes import BLOCK_C, BLOCK_M, BLOCK_N, OPTIONS
from vsad.kernels.greedy_coreset.select import begin_kernel, pick_kernel

from . import Variant, signature


def variants(capability: tuple[int, int]) -> Iterator[Variant]:
    pointers = {"rounded": "*fp16", "nearest": "*fp64", "leaders": "*i64", "picks": "*i64"}
    pointers |= dict.fromkeys(("center", "statistics", "radius"), "*fp32")
    begin: dict[str, Any] = {"BLOCK_N": BLOCK_N, "BLOCK_C": BLOCK_C}
    pick: dict[str, Any] = {"WIDTH": BLOCK_C, "LEADERS": 2048, "BLOCK_M": BLOCK_M, "BLOCK_C": BLOCK_C}
    for dtype in ("*fp32", "*fp16", "*bf16"):
        given = {**pointers, "features": dtype}
        yield Variant(begin_kernel, signature(begin_kernel, given, begin), begin, OPTIONS)
        wanted = ("LDG.E.*128", "DADD|DFMA")
        yield Variant(pick_kernel, signature(pick_kernel, given, pick), pick, OPTIONS, wanted)
