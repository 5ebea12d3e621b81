"""Launcher of the C++ kernels in ``csrc/prototype_distance/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ..common.registry import Launch
from ..common.tensors import matrix, pointer
from ..common.threads import threads
from .call import METRICS, NAME, DistanceCall

# Rows whose mean is the center. Any center gives the same result; the mean of 1024 rows is near enough to the bank's.
CENTER_ROWS = 1024
ALIGNMENT = 64  # bytes of a cache line, to which a packed bank is aligned
PACKED = torch.uint8  # the dtype of a packed bank


def forward(call: DistanceCall) -> tuple[Tensor, ...]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    return prepare(call)(*call[:3])


def prepare(call: DistanceCall) -> Launch:
    """What launches calls like this one; its results have ``shape``, or ``(M, k)``."""
    _check_packed(call)
    features, metric, operands = call.features, call.metric, _operands(call)
    matrix_shape, count = (len(features), call.k), threads(features.numel() * len(call.prototypes))
    del call, features  # a launch holds no tensors

    def launch(
        features: Tensor, prototypes: Tensor, packed: Tensor | None, shape: tuple[int, ...] = matrix_shape
    ) -> tuple[Tensor, ...]:
        distances, indices = features.new_empty(shape), features.new_empty(shape, dtype=torch.int64)
        packs = packed is None and _cpu.prototype_distance_packs(operands)  # as the instruction set in use wants it
        center = _center(prototypes, metric) if packs else None
        packed = None if packed is None else _aligned(packed)
        _cpu.prototype_distance(
            operands.placed(features, prototypes),
            packed=pointer(packed, ALIGNMENT),
            center=pointer(center),
            distances=distances.data_ptr(),
            indices=indices.data_ptr(),
            threads=count,
        )
        return distances, indices

    return launch


def backward(
    call: DistanceCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of features and prototypes; an empty tensor where ``needs`` says no. Bit-identical every time."""
    (indices,), (grad_distances,) = outputs, grads
    assert grad_distances is not None
    grad_distances, indices = grad_distances.contiguous(), indices.contiguous()
    results = tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip(call[:2], needs))
    P, C = call.prototypes.shape
    _cpu.prototype_distance_backward(
        _operands(call),
        indices=pointer(indices),
        grad_distances=pointer(grad_distances),
        grads=(pointer(results[0] if needs[0] else None), pointer(results[1] if needs[1] else None)),
        threads=threads((4 * indices.numel() + P) * C),
    )
    return results


def packed_bytes(prototypes: Tensor, metric: str) -> int:
    """The size of what ``pack`` returns; 0 where the kernels would not read it."""
    return _cpu.packed_bytes(*map(int, prototypes.shape))


def pack(prototypes: Tensor, metric: str) -> Tensor:
    """The bank as the screening kernels read it, in bytes."""
    # zeros, so that bytes between the arrays are the same on every run
    packed = torch.zeros(packed_bytes(prototypes, metric), dtype=PACKED, device="cpu")
    center = _center(prototypes, metric)
    _cpu.pack_prototypes(
        _operands(DistanceCall(prototypes, prototypes, None, 1, metric)),
        packed=pointer(packed, ALIGNMENT),
        center=pointer(center),
        threads=threads(prototypes.numel()),
    )
    return packed


def _check_packed(call: DistanceCall) -> None:
    """Raises a ValueError where the packed bank cannot have been packed of these prototypes."""
    packed, size = call.packed, packed_bytes(call.prototypes, call.metric)
    if packed is not None and (packed.dtype != PACKED or packed.shape != (size,) or not packed.is_contiguous()):
        raise ValueError(
            f"{NAME}: packed must be {size} contiguous bytes in {PACKED}, got {list(packed.shape)} in {packed.dtype}; "
            "pack the prototypes anew with pack_prototypes"
        )


def _aligned(packed: Tensor) -> Tensor:
    """The packed bank, at the start of a cache line: a bank that was loaded from a file may lie anywhere."""
    return packed if packed.data_ptr() % ALIGNMENT == 0 else packed.clone()


def _operands(call: DistanceCall) -> _cpu.DistanceOperands:
    return _cpu.DistanceOperands(matrix(call.features), matrix(call.prototypes), call.k, METRICS.index(call.metric))


def _center(prototypes: Tensor, metric: str) -> Tensor:
    """``(C,)``, near the mean of the bank, whose rows have unit length for the cosine."""
    sample = prototypes[:: prototypes.shape[0] // CENTER_ROWS + 1].float()
    if metric == "cosine":
        sample = torch.nn.functional.normalize(sample)
    return sample.mean(0).nan_to_num(nan=0, posinf=0, neginf=0)
