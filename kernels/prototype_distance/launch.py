"""Launch shapes of the Triton kernels of prototype_distance, and what ships, for compiling ahead of time.

The arithmetic, for an H200 (132 SMs at 1.7 GHz, 4.3 TB/s, 790 TFLOP/s of float16, about 6 TB/s from L2). A tensor
core's SM multiplies 2048 pairs a clock and issues 128 lanes, so a pair of rows costs C / 2048 clocks of product and,
in the epilogue, n / 128 clocks for n instructions: an FFMA for the score; for each cell of 4, 4 FMNMX and two LOP3:
n = 2.5 in all, and some 200 clocks a tile for barriers, the offsets and the lists.

    M = 25,088        product (790 T)   epilogue, if nothing hides it      reads from L2 at 128 rows a program
    P, C = 16,384, 128     0.13 ms      2.5 / 8 = 31 %                     196 x 4.2 MB = 0.82 GB: 0.14 ms
    P, C = 16,384, 512     0.53 ms      8 %                                tiles of both: 4.9 GB: 0.8 ms
    P, C = 16,384, 1536    1.60 ms      3 %                                14.8 GB: 2.5 ms
    P, C = 262,144: 16 times as much of each; the bank is read from memory once a wave

Up to 128 channels two programs of one warp group share an SM: one's epilogue runs beside the other's product, and the
features stay in shared memory. Expected: 0.2 to 0.25 ms for C = 128, where L2 and the product bind about equally.
Wider rows do not fit: both operands pass through shared memory at 128 x 256, 85 FLOP a byte, so that L2 binds unless
programs side by side read the same lines, as in any matrix product of Triton's; expected 60 to 75 % of the product.
The pipeline drains at the end of each tile (some 700 clocks of 8,192 at C = 512), which a persistent loop with
asynchronous epilogues would hide. The rest: packing reads the operands once (C = 128: 21 MB, 5 us), the survey is one
program's 64 rows (5 us), settling reads some 1.5 cells = 6 rows a feature (25,088 x 6 x 4 C bytes = 77 MB at C = 128:
15 us), and two launches that find no work: 4 us.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import triton

from vsad.kernels.prototype_distance.backward import grad_features_kernel, grad_prototypes_kernel, weights_kernel
from vsad.kernels.prototype_distance.exact import exact_kernel, finish_kernel, normalize_kernel
from vsad.kernels.prototype_distance.keys import METRICS
from vsad.kernels.prototype_distance.pack import SAMPLE, pack_bank_kernel, pack_features_kernel, survey_kernel
from vsad.kernels.prototype_distance.screen import screen_kernel, settle_kernel

EXACT = {"BLOCK_Q": 32, "BLOCK_P": 64}
INTERPRETED = {"BLOCK_Q": 32, "BLOCK_P": 1024}  # the interpreter's time goes by the number of blocks
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
    # behind a branch the lists leave copies in flight, but Triton 3.6 cannot compile that for sm_100
    how = {"DESCRIBED": capability >= (9, 0), "SKIPS": capability[0] not in (10, 11)}
    return {**blocks, "STEPS": steps, "LIST": list_size(k), **how}


def list_size(k: int) -> int:
    """Cells that a row keeps: some more than the k that may be needed."""
    return triton.next_power_of_2(k + 3)


Variant = tuple[Any, dict[str, str], dict[str, Any], dict[str, Any], tuple[str, ...]]


def variants(capability: tuple[int, int] = (9, 0)) -> Iterator[Variant]:
    """What a GPU is given: kernel, signature, constants, options, instructions wanted."""
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
            for metric in METRICS.values():
                lists = {"METRIC": metric, "K": k, "SIZE": triton.next_power_of_2(k)}
                read = "*fp32" if metric == METRICS["cosine"] else dtype  # rows of unit length
                cells = {"LIST": list_size(k), "SPLITS": 4, "BLOCK_P": 128, "BLOCK_C": 128}
                yield _variant(settle_kernel, read, {**lists, **cells}, 1, distances=dtype, rows="i32")
                for listed in (True, False):
                    yield _variant(exact_kernel, read, {"LISTED": listed, **lists, **EXACT}, 8)
                    yield _variant(finish_kernel, read, {"LISTED": listed, **lists, **EXACT}, distances=dtype)
        for metric in METRICS.values():
            for kernel in (weights_kernel, grad_features_kernel, grad_prototypes_kernel):
                yield _variant(kernel, dtype, {"METRIC": metric, **GRAD})


def _variant(kernel: Any, dtype: str, constants: dict[str, Any], num_warps: int = 4, **pointers: str) -> Variant:
    given = dict.fromkeys(("rows", "features", "prototypes", "grad", "distances"), dtype)
    given |= dict.fromkeys(("center", "statistics", "slope", "margin", "square_out", "square", "offset"), "*fp32")
    given |= dict.fromkeys(("values", "bounds", "weights"), "*fp32")
    given |= {"out": "*fp32" if kernel is normalize_kernel else dtype, "rounded": "*fp16"}
    given |= dict.fromkeys(("flat", "flat_f", "flat_p"), "*i8") | dict.fromkeys(("listed", "count", "tiles"), "*i32")
    given |= dict.fromkeys(("keys", "indices", "order", "begin"), "*i64") | pointers
    if constants.get("LISTED") is False:
        constants = {**constants, "listed": None, "count": None}
    if constants.get("METRIC", METRICS["cosine"]) != METRICS["cosine"] and "flat_f" in kernel.arg_names:
        constants = {**constants, "flat_f": None, "flat_p": None}
    options = {"num_warps": num_warps, "enable_fp_fusion": True}
    return kernel, signature(kernel, given, constants), constants, options, ()


def signature(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    """Triton's types of all arguments; torch aligns what it allocates, to 16 bytes and more."""
    types = {n: f"{t}:16" if t.startswith("*") else t for n, t in pointers.items()}
    return {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
