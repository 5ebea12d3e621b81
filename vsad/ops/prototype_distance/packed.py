"""A bank of prototypes made ready once for many calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.checks import check_choice, check_same, check_shapes
from .call import METRICS, NAME, DistanceCall
from .registration import OPERATOR


@dataclass(frozen=True, eq=False, repr=False)
class PackedPrototypes:
    """A bank that ``pack_prototypes`` made ready; ``prototype_distance`` takes it in place of the tensor.

    Change nothing in place: what is packed would no longer belong to ``.prototypes``, and results would be wrong.

    Saving or copying it keeps the prototypes and the metric only: it is packed anew where it is loaded, so files
    depend on neither the machine nor the version that wrote them.
    """

    prototypes: Tensor
    metric: str
    packed: Tensor | None

    @property
    def shape(self) -> torch.Size:
        return self.prototypes.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.prototypes.dtype

    @property
    def device(self) -> torch.device:
        return self.prototypes.device

    def __len__(self) -> int:
        return len(self.prototypes)

    def __repr__(self) -> str:
        P, C = self.shape
        return f"PackedPrototypes({P} x {C}, {self.dtype}, {self.device}, metric={self.metric!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _pack, (self.prototypes, self.metric)


def pack_prototypes(prototypes: Tensor, *, metric: str = "euclidean") -> PackedPrototypes:
    """Make a bank ready once for any number of calls of ``prototype_distance``, which gives the same results.

    The CPU kernel screens prototypes in bytes, the CUDA kernel in bfloat16 or bytes; packing makes these, and what
    bounds their error. It costs about as much as a call with few features. It needs, on the CPU, memory for a copy
    of the bank and a quarter of its size; on a GPU, half or three quarters of its size. On the CPU a bank above 48 MB
    in bytes is screened in bytes only if it is packed. Where neither kernel runs nothing is packed.

    Convention:
        A bank packed for ``"euclidean"`` serves ``"sqeuclidean"`` too, and the other way round. No gradient reaches
        the prototypes of a packed bank. On the CPU the bank is a copy, which later changes of the tensor do not reach;
        on other devices it holds the tensor itself.

    Args:
        prototypes: ``(P, C)``, floating point, P >= 1.
        metric: the metric of the calls to come.

    Returns:
        ``PackedPrototypes``, with ``.prototypes``, ``.shape`` and ``.dtype``; ``torch.save`` and ``pickle`` take
        it. Backends that have no use for packing take its tensor.

    Raises:
        ValueError: the shape, dtype or metric is wrong, or the bank is empty; the message names it.

    Example:
        >>> bank = vsad.ops.pack_prototypes(prototypes)
        >>> score = vsad.ops.prototype_distance(tokens, bank).distances[..., 0]    # (B, M)
    """
    check_shapes("pack_prototypes", prototypes=(prototypes, "P C"))
    check_same("pack_prototypes", prototypes=prototypes)
    check_choice("pack_prototypes", "metric", metric, METRICS)
    check_filled("pack_prototypes", prototypes)
    bank = prototypes.detach()
    return _pack(bank.clone(memory_format=torch.contiguous_format) if bank.device.type == "cpu" else bank, metric)


def _pack(prototypes: Tensor, metric: str) -> PackedPrototypes:
    call = DistanceCall(prototypes, prototypes, None, 1, metric)
    row = next((row for row in OPERATOR.backends if row.refusal(call) is None), None)
    pack = getattr(row.load(), "pack", None) if row else None  # Triton's kernels have no use for a packed bank
    return PackedPrototypes(prototypes, metric, pack(prototypes, metric) if pack else None)


torch.serialization.add_safe_globals([_pack])  # it calls nothing but torch and vsad; torch.load may use it


def check_filled(name: str, prototypes: Tensor) -> None:
    if prototypes.shape[0] == 0:
        raise ValueError(f"{name}: prototypes must hold at least one row, got an empty bank; fit it on normal images")


def unpack(features: Tensor, bank: PackedPrototypes, metric: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, prototypes and packed bank of a call, the features in the bank's dtype under autocast."""
    if metric in METRICS and (metric == "cosine") != (bank.metric == "cosine"):
        raise ValueError(
            f"{NAME}: metric must be what the bank was packed for, {bank.metric!r}, got {metric!r}; "
            f"make one with pack_prototypes(prototypes, metric={metric!r})"
        )
    device = bank.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        features = features.to(bank.dtype)
    return features, bank.prototypes, bank.packed
