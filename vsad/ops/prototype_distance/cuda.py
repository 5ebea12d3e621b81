"""Launcher of the CUDA kernels in ``csrc/prototype_distance/cuda``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.registry import Launch
from ..common.stream import stream_of
from ..common.tensors import DTYPES, matrix, pointer
from .call import METRICS, NAME, DistanceCall

SCREENS = ("none", "mma", "wgmma")
CONTIGUOUS = torch.contiguous_format
FORMATS = {"bfloat16": (True, False), "int8": (False, True), "both": (True, True)}
PACKED = torch.int8  # the dtype of what this module packs: it cannot read a bank that another backend packed


def forward(call: DistanceCall) -> tuple[Tensor, ...]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    return screened_search(call)[:2]


def prepare(call: DistanceCall) -> Launch:
    """What launches calls like this one; its results have ``shape``, or ``(M, k)``."""
    search = _prepare(call, None, "bfloat16")

    def launch(*tensors: Tensor | None, **shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        return search(*tensors, **shape)[:2]

    return launch


def screened_search(call: DistanceCall, screen: str | None = None, formats: str = "bfloat16") -> tuple[Tensor, ...]:
    """Distances, indices, and the workspace, which begins with two int32 counters per format of uncertified features.

    Args:
        call: a checked call.
        screen: one of SCREENS, or None for what serves the call best, formats included.
        formats: one of FORMATS, for a forced screen.
    """
    return _prepare(call, screen, formats)(*call[:3])


def _prepare(call: DistanceCall, screen: str | None, formats: str) -> Launch:
    features, prototypes, packed, k, _ = call
    is_packed = packed is not None and packed.dtype == PACKED
    if screen is None:
        with stream_of(features):
            chosen = _cuda.prototype_distance_choice((len(features), *prototypes.shape, k), is_packed)
    else:
        chosen = SCREENS.index(screen), FORMATS[formats]
    arguments = _cuda.DistanceArguments(_operands(call), *chosen)
    bank_bytes, work_bytes, matrix_shape = arguments.bank_bytes, arguments.work_bytes, (len(features), k)
    if is_packed and packed is not None and not (packed.is_contiguous() and packed.numel() >= bank_bytes):
        raise ValueError(
            f"{NAME}: packed must be {bank_bytes} contiguous bytes, got {list(packed.shape)}; "
            "pack the prototypes anew with pack_prototypes"
        )
    del call, features, prototypes, packed  # a launch holds no tensors

    def launch(
        features: Tensor, prototypes: Tensor, packed: Tensor | None, shape: tuple[int, ...] = matrix_shape
    ) -> tuple[Tensor, ...]:
        features, prototypes = _with_rows(features), _with_rows(prototypes)
        distances, indices = features.new_empty(shape), features.new_empty(shape, dtype=torch.int64)
        bank = packed if packed is not None and is_packed else features.new_empty(bank_bytes, dtype=PACKED)
        work = features.new_empty(work_bytes, dtype=PACKED)
        with stream_of(features) as stream:
            placed = arguments.placed(features, prototypes, bank, work)
            if not is_packed:
                _cuda.pack_prototypes(placed, stream)
            _cuda.prototype_distance(placed, distances=distances.data_ptr(), indices=indices.data_ptr(), stream=stream)
        return distances, indices, work

    return launch


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
    with stream_of(prototypes):
        chosen = _cuda.prototype_distance_choice((2**31 - 1, *prototypes.shape, 1), True)
    return _packed(prototypes, metric, *chosen)


def _packed(prototypes: Tensor, metric: str, screen: int, formats: tuple[bool, bool]) -> Tensor:
    operands = _operands(DistanceCall(prototypes, prototypes, None, 1, metric))
    arguments, rows = _cuda.DistanceArguments(operands, screen, formats), _with_rows(prototypes)
    # zeros, so that bytes between the arrays are the same on every run
    bank = torch.zeros(arguments.bank_bytes, dtype=PACKED, device=prototypes.device)
    with stream_of(prototypes) as stream:
        _cuda.pack_prototypes(arguments.placed(rows, rows, bank, None), stream)
    return bank


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
    rows = [_with_rows(t) for t in call[:2]]
    with stream_of(call.features) as stream:
        _cuda.prototype_distance_backward(
            _operands(call).placed(*rows),
            indices=pointer(indices),
            grad_distances=pointer(grad_distances),
            grads=(pointer(results[0] if needs[0] else None), pointer(results[1] if needs[1] else None)),
            weights=pointer(weights),
            pairs=(pointer(sorted_pairs), pointer(begin)),
            stream=stream,
        )
    return results


def _operands(call: DistanceCall) -> _cuda.DistanceOperands:
    """Places, sizes and strides of the operands, once their rows are contiguous."""
    features, prototypes = (t if _has_rows(t) else torch.empty_like(t, memory_format=CONTIGUOUS) for t in call[:2])
    return _cuda.DistanceOperands(matrix(features), matrix(prototypes), call.k, METRICS.index(call.metric))


def _has_rows(t: Tensor) -> bool:
    return t.stride(1) == 1 or t.shape[1] <= 1


def _with_rows(t: Tensor) -> Tensor:
    """The matrix with contiguous rows, as kernels read them."""
    return t if _has_rows(t) else t.contiguous()
