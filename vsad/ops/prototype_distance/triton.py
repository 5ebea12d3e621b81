"""Launcher of the Triton kernels in ``kernels/prototype_distance``.

A survey of the bank determines its center and scale; both operands are rounded to float16; the product on tensor cores
selects candidates in its epilogue; re-ranking measures them by direct difference and certifies features; brute force
measures the features that are not certified. Their number stays on the device, so that nothing waits for the host.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from vsad.kernels.common.rounding import STATISTICS, survey_kernel
from vsad.kernels.prototype_distance.backward import grad_features_kernel, grad_prototypes_kernel, weights_kernel
from vsad.kernels.prototype_distance.brute_force import brute_force_kernel, merge_kernel, normalize_kernel
from vsad.kernels.prototype_distance.launch_shapes import (
    BRUTE_FORCE,
    GRAD,
    INTERPRETED,
    PACK,
    SURVEY,
    Screen,
    list_size,
    screen_constants,
    screen_shape,
)
from vsad.kernels.prototype_distance.pack import pack_bank_kernel, pack_features_kernel
from vsad.kernels.prototype_distance.rerank import rerank_kernel
from vsad.kernels.prototype_distance.screen import screen_kernel

from ..common.stream import stream_of
from .call import METRICS, DistanceCall

FEWEST_CHANNELS = 16  # with fewer, direct differences cost less than screening
FEWEST_PROTOTYPES = 512
FEWEST_PER_NEIGHBOR = 8  # prototypes per neighbor: with fewer, the lists of candidates hold much of the bank
FUSED = {"num_warps": 4, "enable_fp_fusion": True}  # Triton 3.10 fuses products with sums only where asked


class Operands(NamedTuple):
    """What the kernels read: for the cosine, normalized copies of the rows and marks of rows of zeros."""

    features: Tensor  # (M, C)
    prototypes: Tensor  # (P, C)
    no_direction_f: Tensor | None  # (M,)
    no_direction_p: Tensor | None  # (P,)
    k: int
    metric: int


class Uncertified(NamedTuple):
    """The features that re-ranking did not certify."""

    features: Tensor  # (M,) int32, of which the first ``total`` are set
    total: Tensor  # (1,) int32


class Rounded(NamedTuple):
    """The operands of screening in float16, padded to whole blocks, and what bounds its error (kernels' pack.py)."""

    features: Tensor  # (rows, width)
    prototypes: Tensor  # (padded P, width)
    offset: Tensor  # (padded P,)
    slope: Tensor  # (rows,)
    margin: Tensor  # (rows,)
    square: Tensor  # (rows,)
    statistics: Tensor


def forward(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``.

    A packed bank is not used: every call packs the bank.
    """
    features, prototypes, _, k, metric = call
    (M, C), P = features.shape, len(prototypes)
    outputs = features.new_empty((M, k)), features.new_empty((M, k), dtype=torch.int64)
    if M == 0:
        return outputs
    with stream_of(features):
        marks: tuple[Tensor | None, Tensor | None] = None, None
        if metric == "cosine":
            (features, no_direction_f), (prototypes, no_direction_p) = _normalize(features), _normalize(prototypes)
            marks = no_direction_f, no_direction_p
        operands = Operands(features, prototypes, *marks, k, METRICS.index(metric))
        uncertified = None
        if C >= FEWEST_CHANNELS and max(FEWEST_PROTOTYPES, FEWEST_PER_NEIGHBOR * k) <= P:
            uncertified = _screened_search(operands, outputs)
        _brute_force(operands, uncertified, outputs)
    return outputs


def backward(
    call: DistanceCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of features and prototypes; an empty tensor where ``needs`` says no. Bit-identical every time."""
    (indices,), (grad_distances,) = outputs, grads
    assert grad_distances is not None
    features, prototypes, _, k, metric = call
    (M, C), P, pairs = features.shape, len(prototypes), indices.numel()
    grad_distances, indices = grad_distances.contiguous(), indices.contiguous()
    results = tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip(call[:2], needs))
    if C == 0 or pairs == 0:
        return tuple(result.zero_() for result in results)
    weights = features.new_empty((4, pairs), dtype=torch.float32)
    strides = C, *features.stride(), *prototypes.stride()
    how = {"METRIC": METRICS.index(metric), **GRAD, **FUSED}
    columns, rows = triton.cdiv(C, GRAD["BLOCK_C"]), GRAD["BLOCK_N"]
    with stream_of(features):
        weights_kernel[(triton.cdiv(pairs, rows),)](
            grad_distances, features, prototypes, indices, weights, pairs, k, P, *strides, **how
        )
        if needs[0]:
            grad_features_kernel[(triton.cdiv(M, rows), columns)](
                features, prototypes, indices, weights, results[0], M, pairs, k, P, *strides, **how
            )
        if needs[1]:
            chosen, sorted_pairs = indices.flatten().sort(stable=True)
            begin = torch.searchsorted(chosen, torch.arange(P + 1, device=chosen.device))
            grad_prototypes_kernel[(P, columns)](
                features, prototypes, sorted_pairs, begin, weights, results[1], pairs, k, *strides, **how
            )
    return results


def _normalize(rows: Tensor) -> tuple[Tensor, Tensor]:
    N, C = rows.shape
    out, no_direction = rows.new_empty((N, C), dtype=torch.float32), rows.new_empty((N,), dtype=torch.int8)
    normalize_kernel[(triton.cdiv(N, PACK["BLOCK_N"]),)](rows, out, no_direction, N, C, *rows.stride(), **PACK)
    return out, no_direction


def _brute_force(operands: Operands, uncertified: Uncertified | None, outputs: tuple[Tensor, Tensor]) -> None:
    """Measures all features, or the uncertified ones, against every prototype."""
    features, prototypes, *marks, k, metric = operands
    (M, C), P = features.shape, len(prototypes)
    size, programs = triton.next_power_of_2(k), 4 * _multiprocessors(features.device)
    shape = BRUTE_FORCE if features.is_cuda else INTERPRETED
    blocks = triton.cdiv(M, shape["BLOCK_Q"])
    if uncertified is None:  # no more programs than there is work
        programs = min(programs, blocks * triton.cdiv(P, shape["BLOCK_P"]))
    keys = features.new_empty((max(blocks, programs) * shape["BLOCK_Q"] * size,), dtype=torch.int64)
    how = {"UNCERTIFIED": uncertified is not None, "METRIC": metric, "K": k, "SIZE": size, **shape}
    listed = uncertified or (None, None)
    brute_force_kernel[(programs,)](
        features, prototypes, *marks, *listed, keys, M, P, C, *features.stride(), *prototypes.stride(),
        **how, num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    merge_kernel[(min(blocks, programs),)](keys, *listed, *outputs, M, P, programs, **how, **FUSED)


def _screened_search(operands: Operands, outputs: tuple[Tensor, Tensor]) -> Uncertified:
    """Writes the results of certified features; returns the others."""
    features, prototypes, no_direction_f, no_direction_p, k, metric = operands
    (M, C), P = features.shape, len(prototypes)
    capability = _capability(features.device)
    shape, size = screen_shape(C, k, capability), list_size(k)
    blocks, tiles = triton.cdiv(M, shape.block_m), triton.cdiv(P, shape.block_p)
    rows, splits = blocks * shape.block_m, _splits(blocks, tiles, _multiprocessors(features.device), size)
    new = features.new_empty
    uncertified = Uncertified(new((M,), dtype=torch.int32), new((1,), dtype=torch.int32))
    rounded = _round(operands, shape, rows, tiles * shape.block_p, uncertified.total)
    values = new((splits, rows, size), dtype=torch.float32)
    tile_of = torch.empty_like(values, dtype=torch.int32)
    bounds = new((splits, rows), dtype=torch.float32)
    constants = screen_constants(C, k, shape, capability)
    screen_kernel[(blocks * splits,)](
        *_tiled(rounded, shape, constants["DESCRIBED"]), rounded.slope, rounded.offset, values, tile_of, bounds,
        blocks, tiles, splits, **constants, num_warps=shape.num_warps, num_stages=shape.num_stages,
        enable_fp_fusion=True,
    )  # fmt: skip
    rerank_kernel[(M,)](
        features, prototypes, no_direction_p, no_direction_f, rounded.statistics, rounded.margin, rounded.square,
        values, tile_of, bounds, *uncertified, *outputs, P, C, *features.stride(), *prototypes.stride(), rows, splits,
        METRIC=metric, K=k, SIZE=triton.next_power_of_2(k), LIST=size, SPLITS=triton.next_power_of_2(splits),
        BLOCK_P=shape.block_p, BLOCK_C=_pack_block(C), num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return uncertified


def _round(operands: Operands, shape: Screen, rows: int, padded: int, count: Tensor) -> Rounded:
    """Rounds both operands to float16, the bank to ``padded`` rows; sets ``count`` to zero."""
    features, prototypes = operands[:2]
    (M, C), P = features.shape, len(prototypes)
    width = triton.cdiv(C, shape.block_c) * shape.block_c
    new = features.new_empty
    center, statistics = new((C,), dtype=torch.float32), new((STATISTICS.value,), dtype=torch.float32)
    slope, margin, square = new((3, rows), dtype=torch.float32).unbind()
    rounded = Rounded(
        new((rows, width), dtype=torch.float16),
        new((padded, width), dtype=torch.float16),
        new((padded,), dtype=torch.float32),
        slope,
        margin,
        square,
        statistics,
    )
    survey_kernel[(1,)](prototypes, center, statistics, count, P, C, *prototypes.stride(), **SURVEY, num_warps=8)
    how = {"BLOCK_N": PACK["BLOCK_N"], "BLOCK_C": _pack_block(C), **FUSED}
    pack_bank_kernel[(padded // PACK["BLOCK_N"],)](
        prototypes, center, statistics, rounded.prototypes, rounded.offset, P, C, *prototypes.stride(), width, **how
    )
    pack_features_kernel[(rows // PACK["BLOCK_N"],)](
        features, center, statistics, rounded.features, rounded.slope, rounded.margin, rounded.square, M, C,
        *features.stride(), width, **how,
    )  # fmt: skip
    return rounded


def _tiled(rounded: Rounded, shape: Screen, described: bool) -> tuple[Any, Any]:
    """The rounded operands as the screening kernel loads them: by tensor descriptor where the GPU has TMA."""
    if not described:
        return rounded.features, rounded.prototypes
    return (
        TensorDescriptor.from_tensor(rounded.features, [shape.block_m, shape.block_c]),
        TensorDescriptor.from_tensor(rounded.prototypes, [shape.block_p, shape.block_c]),
    )


def _pack_block(C: int) -> int:
    """Channels per block of the kernels that read rows of C channels."""
    return min(PACK["BLOCK_C"], int(triton.next_power_of_2(C)))


def _splits(blocks: int, tiles: int, multiprocessors: int, size: int) -> int:
    """The number of splits of the bank with which all multiprocessors have work to the end."""
    slots = 2 * multiprocessors
    most = max(1, min(tiles // 4, 1024 // size))
    best, most_busy = 1, 0.0
    for splits in range(1, most + 1):
        busy = blocks * splits / (triton.cdiv(blocks * splits, slots) * slots)
        if busy > most_busy + 0.05:
            best, most_busy = splits, busy
        if busy > 0.9:
            break
    return best


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
