"""The public function prototype_distance: argument checks and default values."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import _register_namedtuple

from ..common.checks import autocast_to_float32, check_tensor, integer
from ..common.launches import signature
from .call import NAME, DistanceCall, Metric, check
from .packed import PackedPrototypes, unpack
from .registration import LAUNCHES, run


class Nearest(NamedTuple):
    """Distances ``(..., k)``, ascending, and the int64 indices ``(..., k)`` of the prototypes they lead to."""

    distances: Tensor
    indices: Tensor


torch.serialization.add_safe_globals([Nearest])  # torch.load may make one
_register_namedtuple(Nearest, serialized_type_name="vsad.ops.Nearest")  # torch.export may save one


def prototype_distance(
    features: Tensor,
    prototypes: Tensor | PackedPrototypes,
    k: int = 1,
    *,
    metric: Metric = "euclidean",
    backend: str | None = None,
) -> Nearest:
    """Find the k nearest prototypes of every feature, exactly, without storing all distances.

    ``euclidean`` is ``|f - p|``, ``sqeuclidean`` its square, ``cosine`` is ``1 - <f, p> / (|f| |p|)`` (1 where a norm
    is zero).

    Convention:
        Distances are those of a float32 (float64 for float64 input) brute force up to rounding; an index may differ
        only between prototypes whose distances tie to rounding. Of equal distances the lower index comes first.
        Where squares of elements leave the range of that dtype, distances are infinite or 0, or, for the cosine,
        undefined.

    Args:
        features: ``(..., C)``, floating point.
        prototypes: ``(P, C)``, features' dtype, P >= 1; or a bank from ``pack_prototypes``, which saves the
            packing that every call with a tensor makes.
        k: number of prototypes to find per feature, 1 <= k <= P.
        metric: ``"euclidean"``, ``"sqeuclidean"`` or ``"cosine"``.
        backend: ``"cpu"``, ``"cuda"`` (k up to 64), ``"triton"`` (up to 32), ``"torch"``; None takes the first
            backend in the table that accepts the call.

    Returns:
        ``Nearest``: distances ``(..., k)`` in features' dtype, non-negative and ascending, and indices.
        Differentiable in features and in a tensor of prototypes; at distance zero the gradient of ``euclidean`` is
        zero.

    In torch:
        A distance to or from a row with NaN is NaN, and comes after all others. Under autocast distances are computed
        and returned in float32, packed or not, as those of ``torch.cdist``. Gradients have the same bits on every run.
        Second derivatives are computed in plain torch, at the prototypes that were found. ``torch.func.vmap`` joins its
        batch with the features'; where prototypes are batched it calls the operator once for each element.
        Forward-mode differentiation, and a compiled ``torch.func.grad``, are offered by ``backend="torch"`` only. On
        the CPU, Ctrl-C ends a call, usually within 200 ms.

    Raises:
        ValueError: a shape, dtype, device, metric or k is wrong, or the bank is empty; the message names it.
        TypeError: an argument is not of its type, such as a k that is not an integer.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> tokens, bank = torch.randn(2, 64, 32), torch.randn(500, 32)
        >>> score = vsad.ops.prototype_distance(tokens, bank).distances[..., 0]
        >>> score.shape
        torch.Size([2, 64])

    Source: nearest-prototype scoring as in PatchCore (arXiv 2106.08265).
    """
    bank, packed_for = _bank(prototypes)
    known = signature(features, *bank, packed_for, k, metric, backend)
    launch = LAUNCHES.find(known)
    if launch:
        rows = features if features.ndim == 2 else features.reshape(math.prod(features.shape[:-1]), features.shape[-1])
        return Nearest(*launch(rows, *bank, shape=(*features.shape[:-1], k)))
    check_tensor(NAME, "features", features)
    if features.ndim == 0:
        raise ValueError(f"{NAME}: features must be [... C], got a scalar; give it a dimension of channels")
    packed = None
    if isinstance(prototypes, PackedPrototypes):
        features, prototypes, packed = unpack(features, prototypes, metric)
    else:
        check_tensor(NAME, "prototypes", prototypes)
        features, prototypes = autocast_to_float32(features, prototypes)
    *shape, C = features.shape
    rows = features.reshape(math.prod(shape), C)
    call = DistanceCall(rows, prototypes, packed, integer(NAME, "k", k), metric)
    check(call)
    distances, indices = run(call, backend, known)
    return Nearest(distances.reshape(*shape, k), indices.reshape(*shape, k))


def _bank(prototypes: Tensor | PackedPrototypes) -> tuple[tuple[Tensor, Tensor | None], Metric | None]:
    """The prototypes and what is packed of them, and the metric that they were packed for."""
    if isinstance(prototypes, PackedPrototypes):
        return (prototypes.prototypes, prototypes._current()), prototypes.metric
    return (prototypes, None), None
