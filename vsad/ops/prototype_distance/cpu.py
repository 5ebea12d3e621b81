"""Launcher of ``csrc/cpu/prototype_distance*.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ..common.tensors import DTYPES
from ..common.threads import threads
from .call import METRICS, DistanceCall

CENTER_ROWS = 1024  # any centre gives the same result; the mean of so many rows is near enough to the bank's
ALIGNMENT = 64  # of a packed bank: cache lines


def forward(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    features, prototypes, packed, k, metric = call
    (M, C), P = features.shape, prototypes.shape[0]
    distances = features.new_empty((M, k))
    indices = features.new_empty((M, k), dtype=torch.int64)
    center = _center(prototypes, metric) if packed is None else None
    _cpu.prototype_distance(
        dtype=DTYPES[features.dtype],
        metric=METRICS.index(metric),
        threads=threads(M * P * C),
        sizes=(M, P, C, k),
        features=(features.data_ptr(), *features.stride()),
        prototypes=(prototypes.data_ptr(), *prototypes.stride()),
        distances=distances.data_ptr(),
        indices=indices.data_ptr(),
        center=0 if center is None else center.data_ptr(),
        packed=0 if packed is None else packed.data_ptr(),
    )
    return distances, indices


def backward(
    call: DistanceCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of features and prototypes; an empty tensor where ``needs`` says no. Bit-identical every time."""
    features, prototypes, _, k, metric = call
    (indices,), (grad_distances,) = outputs, grads
    assert grad_distances is not None
    (M, C), P = features.shape, prototypes.shape[0]
    grad_distances, indices = grad_distances.contiguous(), indices.contiguous()
    results = [t.new_empty(t.shape if need else (0,)) for t, need in zip((features, prototypes), needs)]
    _cpu.prototype_distance_backward(
        dtype=DTYPES[features.dtype],
        metric=METRICS.index(metric),
        threads=threads((4 * M * k + P) * C),
        sizes=(M, P, C, k),
        features=(features.data_ptr(), *features.stride()),
        prototypes=(prototypes.data_ptr(), *prototypes.stride()),
        indices=indices.data_ptr(),
        grad_distances=grad_distances.data_ptr(),
        grad_features=results[0].data_ptr() if needs[0] else 0,
        grad_prototypes=results[1].data_ptr() if needs[1] else 0,
    )
    return results[0], results[1]


def pack(prototypes: Tensor, metric: str) -> Tensor | None:
    """The bank as the screening kernels read it, in bytes; None where they would not."""
    P, C = prototypes.shape
    size = _cpu.packed_bytes(P, C)
    if size == 0:
        return None
    buffer = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    packed = buffer[-buffer.data_ptr() % ALIGNMENT :][:size]
    center = _center(prototypes, metric)
    _cpu.pack_prototypes(
        dtype=DTYPES[prototypes.dtype],
        metric=METRICS.index(metric),
        threads=threads(P * C),
        sizes=(P, C),
        prototypes=(prototypes.data_ptr(), *prototypes.stride()),
        center=center.data_ptr(),
        packed=packed.data_ptr(),
    )
    return packed


def _center(prototypes: Tensor, metric: str) -> Tensor:
    """``(C,)``, near the mean of the bank, whose rows have unit length for the cosine."""
    sample = prototypes[:: prototypes.shape[0] // CENTER_ROWS + 1].float()
    if metric == "cosine":
        sample = torch.nn.functional.normalize(sample)
    return sample.mean(0).nan_to_num(nan=0, posinf=0, neginf=0)
