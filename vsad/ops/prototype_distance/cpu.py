"""Launcher of the C++ kernels in ``csrc/prototype_distance/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ..common.tensors import matrix, pointer
from ..common.threads import threads
from .call import METRICS, DistanceCall

# Rows whose mean is the center. Any center gives the same result; the mean of 1024 rows is near enough to the bank's.
CENTER_ROWS = 1024
ALIGNMENT = 64  # bytes of a cache line, to which a packed bank is aligned


def forward(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    features, prototypes, packed, k, metric = call
    distances = features.new_empty((len(features), k))
    indices = features.new_empty((len(features), k), dtype=torch.int64)
    center = _center(prototypes, metric) if packed is None else None
    _cpu.prototype_distance(
        _operands(call),
        packed=pointer(packed),
        center=pointer(center),
        distances=pointer(distances),
        indices=pointer(indices),
        threads=threads(features.numel() * len(prototypes)),
    )
    return distances, indices


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


def pack(prototypes: Tensor, metric: str) -> Tensor | None:
    """The bank as the screening kernels read it, in bytes; None where they would not."""
    size = _cpu.packed_bytes(*prototypes.shape)
    if size == 0:
        return None
    buffer = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    packed = buffer[-buffer.data_ptr() % ALIGNMENT :][:size]
    center = _center(prototypes, metric)
    _cpu.pack_prototypes(
        _operands(DistanceCall(prototypes, prototypes, None, 1, metric)),
        packed=pointer(packed),
        center=pointer(center),
        threads=threads(prototypes.numel()),
    )
    return packed


def _operands(call: DistanceCall) -> _cpu.DistanceOperands:
    return _cpu.DistanceOperands(matrix(call.features), matrix(call.prototypes), call.k, METRICS.index(call.metric))


def _center(prototypes: Tensor, metric: str) -> Tensor:
    """``(C,)``, near the mean of the bank, whose rows have unit length for the cosine."""
    sample = prototypes[:: prototypes.shape[0] // CENTER_ROWS + 1].float()
    if metric == "cosine":
        sample = torch.nn.functional.normalize(sample)
    return sample.mean(0).nan_to_num(nan=0, posinf=0, neginf=0)
