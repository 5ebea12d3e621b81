"""Launcher of ``csrc/cuda/prototype_distance*.cu``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.stream import stream_of
from ..common.tensors import DTYPES
from .call import METRICS, DistanceCall

SCREENS = {"none": 0, "mma": 1, "wgmma": 2}  # Screen, there
FORMATS = {"bfloat16": (True, False), "int8": (False, True), "both": (True, True)}  # by Format, there
PACKED = torch.int8  # the dtype of what this module packs: a bank that another backend packed is not ours to read


def forward(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    return nearest(*call)[:2]


def nearest(
    features: Tensor,
    prototypes: Tensor,
    packed: Tensor | None,
    k: int,
    metric: str,
    *,
    screen: str | None = None,
    formats: str = "bfloat16",
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`forward` does, in the way that a key of SCREENS and one of FORMATS force; and its workspace.

    The workspace begins with two 32-bit numbers: how many features bfloat16 and int8 left to the next pass.
    """
    (M, C), P = features.shape, prototypes.shape[0]
    distances = features.new_empty((M, k))
    indices = features.new_empty((M, k), dtype=torch.int64)
    features, prototypes = _rows(features), _rows(prototypes)
    ours = packed if packed is not None and packed.dtype == PACKED else None
    with stream_of(features) as stream:
        way = (
            (SCREENS[screen], FORMATS[formats])
            if screen
            else _cuda.prototype_distance_choice((M, P, C, k), ours is not None)
        )
        call = _cuda.DistanceArguments(
            dtype=DTYPES[features.dtype],
            metric=METRICS.index(metric),
            screen=way[0],
            formats=way[1],
            sizes=(M, P, C, k),
            features=(features.data_ptr(), features.stride(0)),
            prototypes=(prototypes.data_ptr(), prototypes.stride(0)),
            distances=distances.data_ptr(),
            indices=indices.data_ptr(),
        )
        bank = _bytes(call.bank_bytes, features) if ours is None else ours
        call.place_bank(bank.data_ptr())
        if ours is None:
            _cuda.pack_prototypes(call, stream)
        work = _bytes(call.work_bytes, features)
        call.place_work(work.data_ptr())
        _cuda.prototype_distance(call, stream)
    return distances, indices, work


def pack(prototypes: Tensor, metric: str) -> Tensor | None:
    """The bank as the screening kernels read it, in bytes; None where they would not."""
    P, C = prototypes.shape
    prototypes = _rows(prototypes)
    with stream_of(prototypes) as stream:
        screen, formats = _cuda.prototype_distance_choice((2**31 - 1, P, C, 1), True)
        if screen == SCREENS["none"]:
            return None
        call = _cuda.DistanceArguments(
            dtype=DTYPES[prototypes.dtype],
            metric=METRICS.index(metric),
            screen=screen,
            formats=formats,
            sizes=(0, P, C, 1),
            features=(0, 0),
            prototypes=(prototypes.data_ptr(), prototypes.stride(0)),
            distances=0,
            indices=0,
        )
        packed = _bytes(call.bank_bytes, prototypes)
        call.place_bank(packed.data_ptr())
        _cuda.pack_prototypes(call, stream)
    return packed


def backward(
    call: DistanceCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of features and prototypes; an empty tensor where ``needs`` says no. Bit-identical every time."""
    features, prototypes, _, k, metric = call
    (indices,), (grad_distances,) = outputs, grads
    assert grad_distances is not None
    (M, C), P = features.shape, prototypes.shape[0]
    results = [t.new_empty(t.shape if need else (0,)) for t, need in zip((features, prototypes), needs)]
    grad_distances, indices = grad_distances.contiguous(), indices.contiguous()
    features, prototypes = _rows(features), _rows(prototypes)
    weights = features.new_empty((M, k, 4), dtype=torch.float32)
    chosen = begin = indices
    if needs[1]:
        order, chosen = indices.flatten().sort(stable=True)
        begin = torch.searchsorted(order, torch.arange(P + 1, device=order.device))
    with stream_of(features) as stream:
        _cuda.prototype_distance_backward(
            dtype=DTYPES[features.dtype],
            metric=METRICS.index(metric),
            sizes=(M, P, C, k),
            features=(features.data_ptr(), features.stride(0)),
            prototypes=(prototypes.data_ptr(), prototypes.stride(0)),
            indices=indices.data_ptr(),
            grad_distances=grad_distances.data_ptr(),
            grads=(results[0].data_ptr() if needs[0] else 0, results[1].data_ptr() if needs[1] else 0),
            weights=weights.data_ptr(),
            chosen=chosen.data_ptr(),
            begin=begin.data_ptr(),
            stream=stream,
        )
    return results[0], results[1]


def _rows(t: Tensor) -> Tensor:
    """The same rows, with their columns side by side."""
    return t if t.stride(1) == 1 or t.shape[1] <= 1 else t.contiguous()


def _bytes(count: int, like: Tensor) -> Tensor:
    return torch.empty(count, dtype=PACKED, device=like.device)
