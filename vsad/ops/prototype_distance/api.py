"""Exact distances from features to their nearest prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import autocast, check_choice, check_same, check_shapes, compute_dtype
from ..common.registry import REFERENCE, Op, cpu_backend, cuda_backend, register, triton_backend

NAME = "prototype_distance"
METRICS = ("euclidean", "sqeuclidean", "cosine")
MOST_NEIGHBORS = 64  # of the CUDA kernel
CHUNK_BYTES = 64 << 20  # of one block of the reference's distance matrix


class Nearest(NamedTuple):
    """Distances ``(..., k)``, ascending, and the int64 indices ``(..., k)`` of the prototypes they lead to."""

    distances: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class PackedPrototypes:
    """A bank that :func:`pack_prototypes` made ready; :func:`prototype_distance` takes it in place of the tensor.

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
    """Make a bank ready once for any number of calls of :func:`prototype_distance`, which gives the same results.

    The CPU kernel screens prototypes in bytes, the CUDA kernel in bfloat16 or bytes; packing makes these, and what
    bounds their error. It costs about as much as a call with few features, and on the CPU a quarter of the bank's
    memory beside a copy of it, on a GPU half of it or three quarters. On the CPU a bank above 48 MB in bytes is
    screened in bytes only if it is packed. Where neither kernel runs nothing is packed.

    Convention:
        A bank packed for ``"euclidean"`` serves ``"sqeuclidean"`` too, and the other way round. No gradient reaches
        the prototypes of a packed bank. On the CPU the bank is a copy, which later changes of the tensor do not reach;
        on other devices it holds the tensor itself.

    Args:
        prototypes: ``(P, C)``, floating point, P >= 1.
        metric: the metric of the calls to come.

    Returns:
        :class:`PackedPrototypes`, with ``.prototypes``, ``.shape`` and ``.dtype``; ``torch.save`` and ``pickle`` take
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
    _check_filled("pack_prototypes", prototypes)
    bank = prototypes.detach()
    return _pack(bank.clone(memory_format=torch.contiguous_format) if bank.device.type == "cpu" else bank, metric)


def _pack(prototypes: Tensor, metric: str) -> PackedPrototypes:
    row = next((b for b in OP.backends if b.refusal(prototypes) is None), None)
    pack = getattr(row.load(), "pack", None) if row else None
    return PackedPrototypes(prototypes, metric, pack(prototypes, metric) if pack else None)


torch.serialization.add_safe_globals([_pack])  # it calls nothing but torch and vsad; torch.load may use it


def _check_filled(name: str, prototypes: Tensor) -> None:
    if prototypes.shape[0] == 0:
        raise ValueError(f"{name}: prototypes must hold at least one row, got an empty bank; fit it on normal images")


def prototype_distance(
    features: Tensor,
    prototypes: Tensor | PackedPrototypes,
    k: int = 1,
    *,
    metric: str = "euclidean",
    backend: str | None = None,
) -> Nearest:
    """Find the k nearest prototypes of every feature, exactly, without storing all distances.

    ``euclidean`` is ``|f - p|``, ``sqeuclidean`` its square, ``cosine`` is ``1 - <f, p> / (|f| |p|)`` (1 where a norm
    is zero).

    Convention:
        Distances are those of a float32 (float64 for float64 input) brute force up to rounding; an index may differ
        only between prototypes whose distances tie to rounding. Of equal distances the lower index comes first.

    Args:
        features: ``(..., C)``, floating point.
        prototypes: ``(P, C)``, features' dtype, P >= 1; or a bank from :func:`pack_prototypes`, which saves the
            packing that every call with a tensor makes. Under autocast features are taken in a packed bank's dtype.
        k: how many, 1 <= k <= P.
        metric: ``"euclidean"``, ``"sqeuclidean"`` or ``"cosine"``.
        backend: ``"cpu"``, ``"cuda"`` (k up to 64), ``"triton"`` (up to 32), ``"torch"``; None takes the first that
            can.

    Returns:
        :class:`Nearest`: distances ``(..., k)`` in features' dtype, non-negative and ascending, and indices.
        Differentiable in features and in a tensor of prototypes; at distance zero the gradient of ``euclidean`` is
        zero.

    Raises:
        ValueError: a shape, dtype, device, metric or k is wrong, or the bank is empty; the message names it.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> score = vsad.ops.prototype_distance(tokens, bank).distances[..., 0]    # (B, M)

    Source: nearest-prototype scoring as in PatchCore (arXiv 2106.08265).
    """
    if isinstance(features, Tensor) and features.ndim == 0:
        raise ValueError(f"{NAME}: features must be [... C], got a scalar")
    packed = None
    if isinstance(prototypes, PackedPrototypes):
        features, prototypes, packed = _unpack(features, prototypes, metric)
    else:
        features, prototypes = autocast(features, prototypes)
    check_shapes(NAME, features=(features.reshape(-1, features.shape[-1]), "M C"), prototypes=(prototypes, "P C"))
    check_same(NAME, features=features, prototypes=prototypes)
    check_choice(NAME, "metric", metric, METRICS)
    _check_filled(NAME, prototypes)
    if not 1 <= k <= prototypes.shape[0]:
        raise ValueError(f"{NAME}: k must lie in [1, P={prototypes.shape[0]}], got {k}")

    flat = features.reshape(-1, features.shape[-1])
    chosen = OP.choose(flat, prototypes, backend=backend, k=k)
    if chosen == REFERENCE:
        distances, indices = reference(flat, prototypes, k, metric)
    else:
        distances, indices = _PrototypeDistance.apply(flat, prototypes, packed, k, metric, chosen)
    shape = (*features.shape[:-1], k)
    return Nearest(distances.reshape(shape), indices.reshape(shape))


def _unpack(features: Tensor, bank: PackedPrototypes, metric: str) -> tuple[Tensor, Tensor, Tensor | None]:
    if metric in METRICS and (metric == "cosine") != (bank.metric == "cosine"):
        raise ValueError(
            f"{NAME}: metric must be what the bank was packed for, {bank.metric!r}, got {metric!r}; "
            f"make one with pack_prototypes(prototypes, metric={metric!r})"
        )
    device = bank.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        features = features.to(bank.dtype)
    return features, bank.prototypes, bank.packed


def reference(features: Tensor, prototypes: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """The definition: brute force in blocks of rows, then the distances to the chosen ones by direct difference."""
    indices = _brute_force(features.detach(), prototypes.detach(), k, metric)
    return distances_at(features, prototypes, indices, metric), indices


def distances_at(features: Tensor, prototypes: Tensor, indices: Tensor, metric: str) -> Tensor:
    """Distances ``(M, k)`` from features ``(M, C)`` to ``prototypes[indices]``, differentiable in both."""
    compute = compute_dtype(features.dtype)
    f, p = features.to(compute)[:, None], F.embedding(indices, prototypes.to(compute))  # (M, 1, C), (M, k, C)
    if metric == "cosine":
        norms = f.square().sum(-1).sqrt() * p.square().sum(-1).sqrt()
        cosine = (f * p).sum(-1) / torch.where(norms == 0, 1, norms)  # == 0: NaN must stay NaN
        return (1 - torch.where(norms == 0, 0, cosine)).clamp(min=0).to(features.dtype)
    squared = (f - p).square().sum(-1)
    if metric == "euclidean":
        apart = squared > 0
        squared = torch.where(apart, torch.where(apart, squared, 1).sqrt(), squared)
    return squared.to(features.dtype)


def _brute_force(features: Tensor, prototypes: Tensor, k: int, metric: str) -> Tensor:
    """Indices ``(M, k)``; of equal distances the lower index comes first."""
    compute = compute_dtype(features.dtype)
    f, p = features.to(compute), prototypes.to(compute)
    rows = max(1, CHUNK_BYTES // (p.shape[0] * p.element_size()))
    blocks = [_all_distances(block, p, metric).sort(stable=True).indices[:, :k] for block in f.split(rows)]
    return torch.cat(blocks) if blocks else torch.empty((0, k), dtype=torch.int64, device=f.device)


def _all_distances(f: Tensor, p: Tensor, metric: str) -> Tensor:
    """Distances ``(M, P)`` that rank as the metric does; equal prototypes get equal bits, as no matrix product can."""
    if metric != "cosine":
        return torch.cdist(f, p, compute_mode="donot_use_mm_for_euclid_dist")
    norm_f, norm_p = (t.square().sum(-1, keepdim=True).sqrt() for t in (f, p))
    f, p = (t / torch.where(norm == 0, 1, norm) for t, norm in ((f, norm_f), (p, norm_p)))
    apart = torch.cdist(f, p, compute_mode="donot_use_mm_for_euclid_dist")  # sqrt(2 * cosine distance)
    return torch.where((norm_f == 0) | (norm_p == 0).mT, 2**0.5, apart)


torch.library.define(
    "vsad::prototype_distance_fwd",
    "(Tensor features, Tensor prototypes, Tensor? packed, int k, str metric, str backend) -> (Tensor, Tensor)",
)
torch.library.define(
    "vsad::prototype_distance_bwd",
    "(Tensor grad_distances, Tensor features, Tensor prototypes, Tensor indices, str metric, bool[] needs, str backend)"
    " -> (Tensor, Tensor)",
)


@torch.library.impl("vsad::prototype_distance_fwd", "CompositeExplicitAutograd")
def _forward(
    features: Tensor, prototypes: Tensor, packed: Tensor | None, k: int, metric: str, backend: str
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = OP.backend(backend).load().forward(features, prototypes, packed, k, metric)
    return result


@torch.library.impl("vsad::prototype_distance_bwd", "CompositeExplicitAutograd")
def _backward(
    grad_distances: Tensor,
    features: Tensor,
    prototypes: Tensor,
    indices: Tensor,
    metric: str,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor]:
    kernel = OP.backend(backend).load()
    result: tuple[Tensor, Tensor] = kernel.backward(grad_distances, features, prototypes, indices, metric, needs)
    return result


@torch.library.register_fake("vsad::prototype_distance_fwd")
def _(
    features: Tensor, prototypes: Tensor, packed: Tensor | None, k: int, metric: str, backend: str
) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0], k)
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int64)


@torch.library.register_fake("vsad::prototype_distance_bwd")
def _(
    grad_distances: Tensor,
    features: Tensor,
    prototypes: Tensor,
    indices: Tensor,
    metric: str,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor]:
    grads = [t.new_empty(t.shape if need else (0,)) for t, need in zip((features, prototypes), needs)]
    return grads[0], grads[1]


_fwd = torch.ops.vsad.prototype_distance_fwd.default
_bwd = torch.ops.vsad.prototype_distance_bwd.default


class _PrototypeDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, prototypes: Tensor, packed: Tensor | None, k: int, metric: str, backend: str
    ) -> tuple[Tensor, Tensor]:
        distances, indices = _fwd(features, prototypes, packed, k, metric, backend)
        ctx.save_for_backward(features, prototypes, indices)
        ctx.metric, ctx.backend = metric, backend
        ctx.mark_non_differentiable(indices)
        return distances, indices

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_distances: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        features, prototypes, indices = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:2])
        grads = _bwd(grad_distances, features, prototypes, indices, ctx.metric, needs, ctx.backend)
        return *(g if need else None for g, need in zip(grads, needs)), None, None, None, None


def _cuda_why_not(features: Tensor, prototypes: Tensor | None = None, k: int = 1) -> str | None:
    return f"takes k up to {MOST_NEIGHBORS}, got {k}" if k > MOST_NEIGHBORS else None


def _triton_why_not(*tensors: Tensor, k: int = 1) -> str | None:
    return None if k <= 32 else f"takes k up to 32, got {k}"


OP = register(
    Op(
        name=NAME,
        public=prototype_distance,
        reference=reference,
        backends=(cpu_backend(NAME), cuda_backend(NAME, _cuda_why_not), triton_backend(NAME, _triton_why_not)),
    )
)
