"""Variants of the Triton kernels of prototype_distance that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton

from vsad.kernels.common.rounding import survey_kernel
from vsad.kernels.prototype_distance.backward import grad_features_kernel, grad_prototypes_kernel, weights_kernel
from vsad.kernels.prototype_distance.brute_force import brute_force_kernel, merge_kernel, normalize_kernel
from vsad.kernels.prototype_distance.keys import COSINE, METRIC_CODES
from vsad.kernels.prototype_distance.launch_shapes import (
    BRUTE_FORCE,
    GRAD,
    PACK,
    SURVEY,
    list_size,
    screen_constants,
    screen_shape,
)
from vsad.kernels.prototype_distance.pack import pack_bank_kernel, pack_features_kernel
from vsad.kernels.prototype_distance.rerank import rerank_kernel
from vsad.kernels.prototype_distance.screen import screen_kernel

from . import Variant, signature

MMA = "HGMMA|HMMA|UTCHMMA"
FLOATS = ("*fp32", "*fp16", "*bf16")


def variants(capability: tuple[int, int]) -> Iterator[Variant]:
    for C, k in ((128, 1), (128, 4), (128, 9), (64, 1), (256, 1), (512, 1), (512, 9), (1536, 1), (1536, 32)):
        shape = screen_shape(C, k, capability)
        constants = screen_constants(C, k, shape, capability)
        pointers = {"rounded_f": "*fp16", "rounded_p": "*fp16", "tiles_out": "*i32"}
        pointers |= dict.fromkeys(("slope", "offset", "values", "bounds"), "*fp32")
        if constants["DESCRIBED"]:
            pointers["rounded_f"] = f"tensordesc<fp16[{shape.block_m}, {shape.block_c}]>"
            pointers["rounded_p"] = f"tensordesc<fp16[{shape.block_p}, {shape.block_c}]>"
        options = {"num_warps": shape.num_warps, "num_stages": shape.num_stages, "enable_fp_fusion": True}
        yield Variant(screen_kernel, signature(screen_kernel, pointers, constants), constants, options, (MMA,))
    for dtype in FLOATS:
        yield _variant(survey_kernel, dtype, SURVEY, 8)
        yield _variant(normalize_kernel, dtype, PACK)
        yield _variant(pack_bank_kernel, dtype, PACK)
        yield _variant(pack_features_kernel, dtype, PACK)
        for k in (1, 3, 32):
            for metric in METRIC_CODES:
                lists = {"METRIC": metric, "K": k, "SIZE": triton.next_power_of_2(k)}
                read = "*fp32" if metric == COSINE.value else dtype  # normalized rows
                cells = {"LIST": list_size(k), "SPLITS": 4, "BLOCK_P": 128, "BLOCK_C": 128}
                yield _variant(rerank_kernel, read, {**lists, **cells}, 1, distances=dtype, rows="i32")
                for uncertified in (True, False):
                    yield _variant(brute_force_kernel, read, {"UNCERTIFIED": uncertified, **lists, **BRUTE_FORCE}, 8)
                    yield _variant(
                        merge_kernel, read, {"UNCERTIFIED": uncertified, **lists, **BRUTE_FORCE}, distances=dtype
                    )
        for metric in METRIC_CODES:
            for kernel in (weights_kernel, grad_features_kernel, grad_prototypes_kernel):
                yield _variant(kernel, dtype, {"METRIC": metric, **GRAD})


def _variant(kernel: Any, dtype: str, constants: dict[str, Any], num_warps: int = 4, **pointers: str) -> Variant:
    given = dict.fromkeys(("rows", "features", "prototypes", "grad", "distances"), dtype)
    given |= dict.fromkeys(("center", "statistics", "slope", "margin", "square_out", "square", "offset"), "*fp32")
    given |= dict.fromkeys(("values", "bounds", "weights"), "*fp32")
    given |= {"out": "*fp32" if kernel is normalize_kernel else dtype, "rounded": "*fp16"}
    given |= dict.fromkeys(("no_direction", "no_direction_f", "no_direction_p"), "*i8") | dict.fromkeys(
        ("uncertified", "count", "tiles"), "*i32"
    )
    given |= dict.fromkeys(("keys", "indices", "sorted_pairs", "begin"), "*i64") | pointers
    if constants.get("UNCERTIFIED") is False:
        constants = {**constants, "uncertified": None, "count": None}
    if constants.get("METRIC", COSINE.value) != COSINE.value and "no_direction_f" in kernel.arg_names:
        constants = {**constants, "no_direction_f": None, "no_direction_p": None}
    options = {"num_warps": num_warps, "enable_fp_fusion": True}
    return Variant(kernel, signature(kernel, given, constants), constants, options)
