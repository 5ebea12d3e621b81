"""Exact nearest prototypes in Triton: a screened search in float16 on tensor cores, with brute force as its fallback.

A survey of the bank determines its center and scale; both operands are rounded; the product selects candidates in its
epilogue; re-ranking measures them by direct difference and certifies features; brute force measures the features that
are not certified. Their number stays on the device, so that nothing waits for the host.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
from __future__ import annotations

from functools import lru_cache

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from vsad.kernels.common.device import on_its_device
from vsad.kernels.common.rounding import STATISTICS, survey_kernel
from vsad.kernels.prototype_distance.backward import grad_features_kernel, grad_prototypes_kernel, weights_kernel
from vsad.kernels.prototype_distance.brute_force import brute_force_kernel, merge_kernel, normalize_kernel
from vsad.kernels.prototype_distance.launch_shapes import (
    BRUTE_FORCE,
    GRAD,
    INTERPRETED,
    PACK,
    SURVEY,
    list_size,
    screen_constants,
    screen_shape,
)
from vsad.kernels.prototype_distance.pack import pack_bank_kernel, pack_features_kernel
from vsad.kernels.prototype_distance.rerank import rerank_kernel
from vsad.kernels.prototype_distance.screen import screen_kernel

METRICS = {"euclidean": 0, "sqeuclidean": 1, "cosine": 2}
LEAST_CHANNELS = 16  # with fewer, direct differences cost less than screening
LEAST_PROTOTYPES = 512
LEAST_PER_NEIGHBOR = 8  # prototypes: with fewer, the lists hold much of the bank


@on_its_device
def forward(features: Tensor, prototypes: Tensor, packed: Tensor | None, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``.

    Args:
        packed: not used; a bank is packed in each call.
    """
    (M, C), P = features.shape, prototypes.shape[0]
    distances = features.new_empty((M, k))
    indices = features.new_empty((M, k), dtype=torch.int64)
    if M == 0:
        return distances, indices
    flat: tuple[Tensor | None, Tensor | None] = None, None
    if metric == "cosine":
        (features, flat_f), (prototypes, flat_p) = _normalize(features), _normalize(prototypes)
        flat = flat_f, flat_p
    listed, count = None, None
    if C >= LEAST_CHANNELS and max(LEAST_PROTOTYPES, LEAST_PER_NEIGHBOR * k) <= P:
        listed, count = _screen(features, prototypes, flat, distances, indices, metric)
    _exact(features, prototypes, flat, listed, count, distances, indices, metric)
    return distances, indices


def _normalize(rows: Tensor) -> tuple[Tensor, Tensor]:
    N, C = rows.shape
    out, flat = rows.new_empty((N, C), dtype=torch.float32), rows.new_empty((N,), dtype=torch.int8)
    normalize_kernel[(triton.cdiv(N, PACK["BLOCK_N"]),)](rows, out, flat, N, C, *rows.stride(), **PACK)
    return out, flat


def _exact(features, prototypes, flat, listed, count, distances, indices, metric):
    (M, C), P, k = features.shape, prototypes.shape[0], distances.shape[1]
    size, programs = triton.next_power_of_2(k), 4 * _processors(features.device)
    shape = BRUTE_FORCE if features.is_cuda else INTERPRETED
    blocks = triton.cdiv(M, shape["BLOCK_Q"])
    if listed is None:  # no more programs than there is work
        programs = min(programs, blocks * triton.cdiv(P, shape["BLOCK_P"]))
    keys = features.new_empty((max(blocks, programs) * shape["BLOCK_Q"] * size,), dtype=torch.int64)
    how = {"UNCERTIFIED": listed is not None, "METRIC": METRICS[metric], "K": k, "SIZE": size, **shape}
    brute_force_kernel[(programs,)](
        features, prototypes, *flat, listed, count, keys, M, P, C, *features.stride(), *prototypes.stride(),
        **how, num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    merge_kernel[(min(blocks, programs),)](
        keys, listed, count, distances, indices, M, P, programs, **how, num_warps=4, enable_fp_fusion=True
    )


def _screen(features, prototypes, flat, distances, indices, metric):
    """Writes what is certified; returns the list of other rows, and their number."""
    (M, C), P, k = features.shape, prototypes.shape[0], distances.shape[1]
    capability = _capability(features.device)
    shape = screen_shape(C, k, capability)
    width = triton.cdiv(C, shape.block_c) * shape.block_c
    blocks, tiles = triton.cdiv(M, shape.block_m), triton.cdiv(P, shape.block_p)
    rows, padded = blocks * shape.block_m, tiles * shape.block_p
    size = list_size(k)
    splits = _splits(blocks, tiles, _processors(features.device), size)

    new = features.new_empty
    center, statistics = new((C,), dtype=torch.float32), new((STATISTICS.value,), dtype=torch.float32)
    count, listed = new((1,), dtype=torch.int32), new((M,), dtype=torch.int32)
    rounded_p, offset = new((padded, width), dtype=torch.float16), new((padded,), dtype=torch.float32)
    rounded_f = new((rows, width), dtype=torch.float16)
    slope, margin, square = new((3, rows), dtype=torch.float32).unbind()
    values = new((splits, rows, size), dtype=torch.float32)
    tile_of = torch.empty_like(values, dtype=torch.int32)
    bounds = new((splits, rows), dtype=torch.float32)

    block_c = min(128, triton.next_power_of_2(C))
    survey_kernel[(1,)](prototypes, center, statistics, count, P, C, *prototypes.stride(), **SURVEY, num_warps=8)
    pack = {"BLOCK_N": PACK["BLOCK_N"], "BLOCK_C": block_c, "num_warps": 4, "enable_fp_fusion": True}
    pack_bank_kernel[(padded // PACK["BLOCK_N"],)](
        prototypes, center, statistics, rounded_p, offset, P, C, *prototypes.stride(), width, **pack
    )
    pack_features_kernel[(rows // PACK["BLOCK_N"],)](
        features, center, statistics, rounded_f, slope, margin, square, M, C, *features.stride(), width, **pack
    )
    constants = screen_constants(C, k, shape, capability)
    operands = rounded_f, rounded_p
    if constants["DESCRIBED"]:
        operands = (
            TensorDescriptor.from_tensor(rounded_f, [shape.block_m, shape.block_c]),
            TensorDescriptor.from_tensor(rounded_p, [shape.block_p, shape.block_c]),
        )
    screen_kernel[(blocks * splits,)](
        *operands, slope, offset, values, tile_of, bounds, blocks, tiles, splits, **constants,
        num_warps=shape.num_warps, num_stages=shape.num_stages, enable_fp_fusion=True,
    )  # fmt: skip
    rerank_kernel[(M,)](
        features, prototypes, flat[1], flat[0], statistics, margin, square, values, tile_of, bounds,
        listed, count, distances, indices, P, C, *features.stride(), *prototypes.stride(), rows, splits,
        METRIC=METRICS[metric], K=k, SIZE=triton.next_power_of_2(k), LIST=size,
        SPLITS=triton.next_power_of_2(splits), BLOCK_P=shape.block_p, BLOCK_C=block_c,
        num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return listed, count


def _splits(blocks: int, tiles: int, processors: int, size: int) -> int:
    """Into how many parts the bank is cut so that all processors have work to the end."""
    slots = 2 * processors
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
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@on_its_device
def backward(
    grad_distances: Tensor, features: Tensor, prototypes: Tensor, indices: Tensor, metric: str, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of features and prototypes; an empty tensor where ``needs`` says no. Bit-identical every time."""
    (M, C), P, k = features.shape, prototypes.shape[0], indices.shape[1]
    grad_distances, indices = grad_distances.contiguous(), indices.contiguous()
    grads = [t.new_empty(t.shape if need else (0,)) for t, need in zip((features, prototypes), needs)]
    pairs = M * k
    if C == 0 or pairs == 0:
        return grads[0].zero_(), grads[1].zero_()
    weights = features.new_empty((4, pairs), dtype=torch.float32)
    strides = C, *features.stride(), *prototypes.stride()
    how = {"METRIC": METRICS[metric], **GRAD}
    how |= {"num_warps": 4, "enable_fp_fusion": True}
    columns, rows = triton.cdiv(C, how["BLOCK_C"]), how["BLOCK_N"]
    weights_kernel[(triton.cdiv(pairs, rows),)](
        grad_distances, features, prototypes, indices, weights, pairs, k, *strides, **how
    )
    if needs[0]:
        grad_features_kernel[(triton.cdiv(M, rows), columns)](
            features, prototypes, indices, weights, grads[0], M, pairs, k, *strides, **how
        )
    if needs[1]:
        chosen, order = indices.flatten().sort(stable=True)
        begin = torch.searchsorted(chosen, torch.arange(P + 1, device=chosen.device))
        grad_prototypes_kernel[(P, columns)](
            features, prototypes, order, begin, weights, grads[1], pairs, k, *strides, **how
        )
    return grads[0], grads[1]
