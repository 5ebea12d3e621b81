"""Launcher of the CUDA kernels in ``csrc/prototype_distance/cuda``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.stream import stream_of
from ..common.tensors import DTYPES, matrix, pointer
from .call import METRICS, NAME, DistanceCall

SCREENS = ("none", "mma", "wgmma")
FORMATS = {"bfloat16": (True, False), "int8": (False, True), "both": (True, True)}
PACKED = torch.int8  # the dtype of what this module packs: it cannot read a bank that another backend packed


def forward(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    return screened_search(call)[:2]


def screened_search(
    call: DistanceCall, screen: str | None = None, formats: str = "bfloat16"
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances, indices, and the workspace, which begins with two int32 counters per format of uncertified features.

    Args:
        call: a checked call.
        screen: one of SCREENS, or None for what serves the call best, formats included.
        formats: one of FORMATS, for a forced screen.
    """
    features, prototypes, packed, k, _ = call
    distances = features.new_empty((len(features), k))
    indices = features.new_empty((len(features), k), dtype=torch.int64)
    packed = packed if packed is not None and packed.dtype == PACKED else None
    with stream_of(features) as stream:
        if screen is None:
            sizes = (len(features), *prototypes.shape, k)
            chosen = _cuda.prototype_distance_choice(sizes, packed is not None)
        else:
            chosen = SCREENS.index(screen), FORMATS[formats]
        operands, _keep = _operands(call)
        arguments = _cuda.DistanceArguments(operands, *chosen)
        bank = _pack(arguments, _bytes(arguments.bank_bytes, features), stream) if packed is None else packed
        if not bank.is_contiguous() or bank.numel() < arguments.bank_bytes:
            raise ValueError(
                f"{NAME}: packed must be {arguments.bank_bytes} contiguous bytes, got {list(bank.shape)}; "
                "pack the prototypes anew with pack_prototypes"
            )
        arguments.place_bank(pointer(bank))
        work = _bytes(arguments.work_bytes, features)
        arguments.place_work(pointer(work))
        _cuda.prototype_distance(arguments, distances=pointer(distances), indices=pointer(indices), stream=stream)
    return distances, indices, work


def packed_bytes(prototypes: Tensor, metric: str) -> int:
    """The size of what ``pack`` returns; 0 where the kernels would not read it."""
    P, C = map(int, prototypes.shape)
    with stream_of(prototypes):
        screen, formats = _cuda.prototype_distance_choice((2**31 - 1, P, C, 1), True)
        if SCREENS[screen] == "none":
            return 0
        sizes = (0, DTYPES[prototypes.dtype], P, C, C, 1)
        operands = _cuda.DistanceOperands(sizes, sizes, 1, METRICS.index(metric))
        return _cuda.DistanceArguments(operands, screen, formats).bank_bytes


def pack(prototypes: Tensor, metric: str) -> Tensor:
    """The bank as the screening kernels read it, in bytes."""
    with stream_of(prototypes) as stream:
        screen, formats = _cuda.prototype_distance_choice((2**31 - 1, *prototypes.shape, 1), True)
        operands, _keep = _operands(DistanceCall(prototypes, prototypes, None, 1, metric))
        # zeros, so that bytes between the arrays are the same on every run
        bank = torch.zeros(packed_bytes(prototypes, metric), dtype=PACKED, device=prototypes.device)
        return _pack(_cuda.DistanceArguments(operands, screen, formats), bank, stream)


def backward(
    call: DistanceCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of features and prototypes; an empty tensor where ``needs`` says no. Bit-identical every time."""
    (indices,), (grad_distances,) = outputs, grads
    assert grad_distances is not None
    grad_distances, indices = grad_distances.contiguous(), indices.contiguous()
    results = tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip(call[:2], needs))
    weights = call.features.new_empty((*indices.shape, 4), dtype=torch.float32)
    sorted_pairs = begin = None
    if needs[1]:
        chosen, sorted_pairs = indices.flatten().sort(stable=True)
        begin = torch.searchsorted(chosen, torch.arange(len(call.prototypes) + 1, device=chosen.device))
    with stream_of(call.features) as stream:
        operands, _keep = _operands(call)
        _cuda.prototype_distance_backward(
            operands,
            indices=pointer(indices),
            grad_distances=pointer(grad_distances),
            grads=(pointer(results[0] if needs[0] else None), pointer(results[1] if needs[1] else None)),
            weights=pointer(weights),
            pairs=(pointer(sorted_pairs), pointer(begin)),
            stream=stream,
        )
    return results


def _pack(arguments: _cuda.DistanceArguments, bank: Tensor, stream: int) -> Tensor:
    arguments.place_bank(pointer(bank))
    _cuda.pack_prototypes(arguments, stream)
    return bank


def _operands(call: DistanceCall) -> tuple[_cuda.DistanceOperands, tuple[Tensor, Tensor]]:
    """Pointers, sizes and strides of the operands, and the tensors with contiguous rows, which must outlive them."""
    features, prototypes = (t if t.stride(1) == 1 or t.shape[1] <= 1 else t.contiguous() for t in call[:2])
    operands = _cuda.DistanceOperands(matrix(features), matrix(prototypes), call.k, METRICS.index(call.metric))
    return operands, (features, prototypes)


def _bytes(count: int, like: Tensor) -> Tensor:
    return torch.empty(count, dtype=PACKED, device=like.device)
