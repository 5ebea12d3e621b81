"""Launch shapes of the Triton kernels of prototype_distance, and the variants to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import triton

from vsad.kernels.common.rounding import SAMPLE, survey_kernel
from vsad.kernels.common.variants import Variant, signature
from vsad.kernels.prototype_distance.backward import grad_features_kernel, grad_prototypes_kernel, weights_kernel
from vsad.kernels.prototype_distance.brute_force import brute_force_kernel, merge_kernel, normalize_kernel
from vsad.kernels.prototype_distance.keys import COSINE, METRIC_CODES
from vsad.kernels.prototype_distance.pack import pack_bank_kernel, pack_features_kernel
from vsad.kernels.prototype_distance.rerank import rerank_kernel
from vsad.kernels.prototype_distance.screen import screen_kernel

BRUTE_FORCE = {"BLOCK_Q": 32, "BLOCK_P": 64}
INTERPRETED = {"BLOCK_Q": 32, "BLOCK_P": 1024}  # the interpreter's time is proportional to the number of blocks
PACK = {"BLOCK_N": 16, "BLOCK_C": 128}
SURVEY = {"SIZE": SAMPLE, "BLOCK_C": 64}
GRAD = {"BLOCK_N": 16, "BLOCK_C": 128}
MMA = "HGMMA|HMMA|UTCHMMA"
FLOATS = ("*fp32", "*fp16", "*bf16")


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


def variants(capability: tuple[int, int] = (9, 0)) -> Iterator[Variant]:
    """The variants that a GPU of this compute capability runs."""
    for C, k in ((128, 1), (128, 4), (128, 9), (64, 1), (256, 1), (512, 1), (512, 9), (1536, 1), (1536, 32)):
        shape = screen_shape(C, k, capability)
        constants = screen_constants(C, k, shape, capability)
        pointers = {"rounded_f": "*fp16", "rounded_p": "*fp16", "tiles_out": "*i32"}
        pointers |= dict.fromkeys(("slope", "offset", "values", "bounds"), "*fp32")
        if constants["DESCRIBED"]:
            pointers["rounded_f"] = f"tensordesc<fp16[{shape.block_m}, {shape.block_c}]>"
            pointers["rounded_p"] = f"tensordesc<fp16[{shape.block_p}, {shape.block_c}]>"
        options = {"num_warps": shape.num_warps, "num_stages": shape.num_stages, "enable_fp_fusion": True}
        yield screen_kernel, signature(screen_kernel, pointers, constants), constants, options, (MMA,)
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
    return kernel, signature(kernel, given, constants), constants, options, ()
