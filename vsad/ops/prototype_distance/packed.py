"""A bank of prototypes made ready once for many calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import autocast_to_float32, check_choice, check_same, check_shapes
from ..common.registry import Backend
from ..common.tensors import UnusableMemoryError, pointer
from .call import METRICS, NAME, DistanceCall, Metric, check_filled
from .registration import OPERATOR


class PackedPrototypes(nn.Module):
    """A bank that ``pack_prototypes`` made ready; ``prototype_distance`` takes it in place of the tensor.

    ``prototypes (P, C)`` is a buffer: it travels in the ``state_dict`` of a module that holds the bank, and ``.to()``
    moves and casts it. What is packed is made anew then, and where the bank is loaded or copied, so files depend on
    neither the machine nor the version that wrote them. ``packed`` is None where no kernel has a use for it.

    What is packed does not follow another change of ``prototypes``, in place or by ``torch.func.functional_call``: from
    then on the prototypes are taken as they are, which is right and takes longer. A compiled function does not notice
    such a change.
    """

    prototypes: Tensor
    packed: Tensor | None

    def __init__(self, prototypes: Tensor, metric: Metric = "euclidean") -> None:
        super().__init__()
        _check(prototypes, metric)
        self.metric: Metric = metric
        bank = prototypes.detach()
        self.register_buffer("prototypes", bank.clone(memory_format=torch.contiguous_format) if bank.is_cpu else bank)
        self.register_buffer("packed", _pack(self.prototypes, metric), persistent=False)
        self._remember()

    def _repack(self) -> None:
        self.packed = _pack(self.prototypes, self.metric)
        self._remember()

    def _remember(self) -> None:
        self._made = self.packed
        self._seen = None if torch.compiler.is_compiling() else _identity(self.prototypes, self.metric)

    def _current(self) -> Tensor | None:
        """What is packed, or None where the prototypes have changed since.

        Whoever replaces both buffers, as an exporter does, replaces them by what belongs together.
        """
        if torch.compiler.is_compiling() or self.packed is not self._made:
            return self.packed
        return self.packed if _identity(self.prototypes, self.metric) == self._seen else None

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
        return PackedPrototypes, (self.prototypes, self.metric)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedPrototypes:
        super()._apply(fn, recurse)
        if _identity(self.prototypes, self.metric) != self._seen:
            self._repack()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._repack()


def pack_prototypes(prototypes: Tensor, *, metric: Metric = "euclidean") -> PackedPrototypes:
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
        ``PackedPrototypes``, a module with the buffer ``prototypes``, and ``.shape``, ``.dtype`` and ``.device``;
        ``torch.save``, ``pickle``, ``copy`` and ``.to()`` take it. Backends that have no use for packing take its
        tensor.

    Raises:
        ValueError: the shape, dtype or metric is wrong, or the bank is empty; the message names it.
        TypeError: prototypes are not a strided tensor.

    Example:
        >>> tokens, prototypes = torch.randn(2, 64, 32), torch.randn(500, 32)
        >>> bank = vsad.ops.pack_prototypes(prototypes)
        >>> score = vsad.ops.prototype_distance(tokens, bank).distances[..., 0]  # (2, 64)
    """
    return PackedPrototypes(prototypes, metric)


torch.serialization.add_safe_globals([PackedPrototypes])  # it calls nothing but torch and vsad; torch.load may use it


def _check(prototypes: Tensor, metric: str) -> None:
    check_shapes("pack_prototypes", prototypes=(prototypes, "P C"))
    check_same("pack_prototypes", prototypes=prototypes)
    check_choice("pack_prototypes", "metric", metric, METRICS)
    check_filled("pack_prototypes", prototypes)


def _identity(prototypes: Tensor, metric: str) -> tuple[Any, ...]:
    """Differs after a change of the prototypes, in place too."""
    place = prototypes.data_ptr() if type(prototypes) is Tensor else None  # fakes have none
    return metric, id(prototypes), place, None if prototypes.is_inference() else prototypes._version


def _pack(prototypes: Tensor, metric: str) -> Tensor | None:
    """What the backend that will run the calls packs of a bank; None where it packs nothing."""
    call = DistanceCall(prototypes, prototypes, None, 1, metric)
    row = next((row for row in OPERATOR.backends if row.refusal(call) is None), None)
    if row is None:
        return None
    packed: Tensor = torch.ops.vsad.pack_prototypes(prototypes, metric, row.name)
    return packed if packed.shape[0] > 0 else None


def _packed_bytes(row: Backend[DistanceCall], prototypes: Tensor, metric: str) -> int:
    size = getattr(row.load(), "packed_bytes", None)  # Triton's kernels have no use for a packed bank
    return size(prototypes, metric) if size else 0


def _pack_registered(prototypes: Tensor, metric: str, backend: str) -> Tensor:
    """Bytes; none where the backend has no use for packing."""
    _check(prototypes, metric)
    row = OPERATOR.backend(backend)
    reason = row.refusal(DistanceCall(prototypes, prototypes, None, 1, metric))
    if reason is not None:
        raise RuntimeError(f"pack_prototypes: backend {backend!r} {reason}")
    try:
        pointer(prototypes)
    except UnusableMemoryError as error:
        raise ValueError(f"pack_prototypes: {error}") from None
    kernels: Any = row.load()
    if _packed_bytes(row, prototypes, metric) == 0:
        return _pack_fake(prototypes, metric, backend)
    packed: Tensor = kernels.pack(prototypes, metric)
    return packed


def _pack_fake(prototypes: Tensor, metric: str, backend: str) -> Tensor:
    _check(prototypes, metric)
    row = OPERATOR.backend(backend)
    dtype = getattr(row.load(), "PACKED", torch.uint8)
    return prototypes.new_empty((_packed_bytes(row, prototypes, metric),), dtype=dtype)


torch.library.define("vsad::pack_prototypes", "(Tensor prototypes, str metric, str backend) -> Tensor")
torch.library.impl("vsad::pack_prototypes", "CompositeExplicitAutograd")(_pack_registered)
torch.library.register_fake("vsad::pack_prototypes")(_pack_fake)


def unpack(features: Tensor, bank: PackedPrototypes, metric: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, prototypes and what is packed, of a call; in float32 under autocast."""
    if metric in METRICS and (metric == "cosine") != (bank.metric == "cosine"):
        raise ValueError(
            f"{NAME}: metric must be what the bank was packed for, {bank.metric!r}, got {metric!r}; "
            f"make one with pack_prototypes(prototypes, metric={metric!r})"
        )
    features, prototypes = autocast_to_float32(features, bank.prototypes)
    return features, prototypes, bank._current()
