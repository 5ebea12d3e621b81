"""Exact distances from features to their nearest prototypes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ._check import autocast, check_choice, check_same, check_shapes, compute_dtype
from ._op import REFERENCE, Op, cpu_backend, register

NAME = "prototype_distance"
METRICS = ("euclidean", "sqeuclidean", "cosine")
CHUNK_BYTES = 64 << 20  # of one block of the reference's distance matrix


class Nearest(NamedTuple):
    """Distances ``(..., k)``, ascending, and the int64 indices ``(..., k)`` of the prototypes they lead to."""

    distances: Tensor
    indices: Tensor


def prototype_distance(
    features: Tensor,
    prototypes: Tensor,
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
        prototypes: ``(P, C)``, features' dtype, P >= 1.
        k: how many, 1 <= k <= P.
        metric: ``"euclidean"``, ``"sqeuclidean"`` or ``"cosine"``.
        backend: ``"cpu"``, ``"torch"``; None takes the first that can.

    Returns:
        :class:`Nearest`: distances ``(..., k)`` in features' dtype, non-negative and ascending, and indices.
        Differentiable in both arguments; the gradient of ``euclidean`` at distance zero is zero.

    Raises:
        ValueError: a shape, dtype, device, metric or k is wrong, or the bank is empty; the message names it.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> score = vsad.ops.prototype_distance(tokens, bank).distances[..., 0]    # (B, M)

    Source: nearest-prototype scoring as in PatchCore (arXiv 2106.08265).
    """
    if isinstance(features, Tensor) and features.ndim == 0:
        raise ValueError(f"{NAME}: features must be [... C], got a scalar")
    features, prototypes = autocast(features, prototypes)
    check_shapes(NAME, features=(features.reshape(-1, features.shape[-1]), "M C"), prototypes=(prototypes, "P C"))
    check_same(NAME, features=features, prototypes=prototypes)
    check_choice(NAME, "metric", metric, METRICS)
    if prototypes.shape[0] == 0:
        raise ValueError(f"{NAME}: prototypes must hold at least one row, got an empty bank; fit it on normal images")
    if not 1 <= k <= prototypes.shape[0]:
        raise ValueError(f"{NAME}: k must lie in [1, P={prototypes.shape[0]}], got {k}")

    flat = features.reshape(-1, features.shape[-1])
    chosen = OP.choose(flat, prototypes, backend=backend, k=k)
    if chosen == REFERENCE:
        distances, indices = reference(flat, prototypes, k, metric)
    else:
        distances, indices = _PrototypeDistance.apply(flat, prototypes, k, metric, chosen)
    shape = (*features.shape[:-1], k)
    return Nearest(distances.reshape(shape), indices.reshape(shape))


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
    "(Tensor features, Tensor prototypes, int k, str metric, str backend) -> (Tensor, Tensor)",
)
torch.library.define(
    "vsad::prototype_distance_bwd",
    "(Tensor grad_distances, Tensor features, Tensor prototypes, Tensor indices, str metric) -> (Tensor, Tensor)",
)


@torch.library.impl("vsad::prototype_distance_fwd", "CompositeExplicitAutograd")
def _forward(features: Tensor, prototypes: Tensor, k: int, metric: str, backend: str) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = OP.backend(backend).load().forward(features, prototypes, k, metric)
    return result


@torch.library.impl("vsad::prototype_distance_bwd", "CompositeExplicitAutograd")
def _backward(
    grad_distances: Tensor, features: Tensor, prototypes: Tensor, indices: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    """Autograd through ``distances_at`` is sparse already: only the chosen prototypes have a gradient."""
    with torch.enable_grad():
        f, p = features.detach().requires_grad_(), prototypes.detach().requires_grad_()
        grads = torch.autograd.grad(distances_at(f, p, indices, metric), (f, p), grad_distances)
    return grads[0].contiguous(), grads[1].contiguous()


@torch.library.register_fake("vsad::prototype_distance_fwd")
def _(features: Tensor, prototypes: Tensor, k: int, metric: str, backend: str) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0], k)
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int64)


@torch.library.register_fake("vsad::prototype_distance_bwd")
def _(
    grad_distances: Tensor, features: Tensor, prototypes: Tensor, indices: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), prototypes.new_empty(prototypes.shape)


_fwd = torch.ops.vsad.prototype_distance_fwd.default
_bwd = torch.ops.vsad.prototype_distance_bwd.default


class _PrototypeDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, prototypes: Tensor, k: int, metric: str, backend: str
    ) -> tuple[Tensor, Tensor]:
        distances, indices = _fwd(features, prototypes, k, metric, backend)
        ctx.save_for_backward(features, prototypes, indices)
        ctx.metric = metric
        ctx.mark_non_differentiable(indices)
        return distances, indices

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_distances: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        features, prototypes, indices = ctx.saved_tensors
        return *_bwd(grad_distances, features, prototypes, indices, ctx.metric), None, None, None


OP = register(
    Op(
        name=NAME,
        public=prototype_distance,
        reference=reference,
        backends=(cpu_backend(NAME),),
    )
)
