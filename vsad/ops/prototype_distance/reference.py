"""The definition of prototype_distance in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import compute_dtype
from .call import DistanceCall

BLOCK_ELEMENTS = 1 << 19  # of a matrix that is held at once; sorting its rows takes about 32 bytes per element


def reference(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """The definition: brute force, then the distances to the chosen ones by direct difference.

    In blocks of features, which keeps it below 64 MB beside what one feature needs (32 bytes per prototype) and, for
    the cosine and for half types, a copy of both operands in float32.
    """
    f, p = (t.to(compute_dtype(t.dtype)) for t in call[:2])
    k, metric = call.k, call.metric
    bank = _measurable(p.detach(), metric)
    indices = _in_blocks(lambda block: _nearest(block, bank, k, metric), p.shape[0], f.detach())
    distances = _in_blocks(lambda block, at: distances_at(block, p, at, metric), k * p.shape[1], f, indices)
    return distances.to(call.features.dtype), indices


def distances_at(features: Tensor, prototypes: Tensor, indices: Tensor, metric: str) -> Tensor:
    """Distances ``(M, k)`` from features ``(M, C)`` to ``prototypes[indices]``, differentiable in both."""
    compute = compute_dtype(features.dtype)
    f, p = features.to(compute)[:, None], F.embedding(indices, prototypes.to(compute))  # (M, 1, C), (M, k, C)
    if metric == "cosine":
        (norm_f, zero_f), (norm_p, zero_p) = _norms(f), _norms(p)
        cosine = torch.where(zero_f | zero_p, 0, (f * p).sum(-1) / (norm_f * norm_p))
        return (1 - cosine).clamp(min=0).to(features.dtype)
    if metric == "euclidean":
        norm, zero = _norms(f - p)
        return torch.where(zero, 0, norm).to(features.dtype)
    return (f - p).square().sum(-1).to(features.dtype)


def all_distances(f: Tensor, p: Tensor, metric: str) -> Tensor:
    """Distances ``(M, P)`` that rank as the metric does; equal prototypes get equal bits, as no matrix product can."""
    return _all_distances(_measurable(f, metric), _measurable(p, metric))


Rows = tuple[Tensor, Tensor | None]  # (N, C), and for the cosine, whose rows have unit length, which are zero: (N,)


def _measurable(rows: Tensor, metric: str) -> Rows:
    if metric != "cosine":
        return rows, None
    norms, zero = _norms(rows)
    return rows / norms[:, None], zero


def _all_distances(f: Rows, p: Rows) -> Tensor:
    apart = torch.cdist(f[0], p[0], compute_mode="donot_use_mm_for_euclid_dist")
    if f[1] is None or p[1] is None:
        return apart
    return torch.where(f[1][:, None] | p[1], 2**0.5, apart)  # sqrt(2 * cosine distance)


def _in_blocks(function: Callable[..., Tensor], elements: int, *rows: Tensor) -> Tensor:
    """A function of rows, each of which takes this many elements of memory, block by block."""
    if len(rows[0]) <= max(1, BLOCK_ELEMENTS // max(1, elements)):
        return function(*rows)
    # by halves: results that lie between freed blocks, as a list of them would, keep the memory from being used again
    halves = zip(*(t.tensor_split(2) for t in rows))
    return torch.cat([_in_blocks(function, elements, *half) for half in halves])


def _nearest(f: Tensor, bank: Rows, k: int, metric: str) -> Tensor:
    """Indices ``(M, k)``; of equal distances the lower index comes first."""
    distances = _all_distances(_measurable(f, metric), bank)
    if distances.is_cuda:  # Arithmetic there makes float64's NaN negative, which torch sorts first there.
        distances.masked_fill_(distances.isnan(), float("nan"))
    # a view of the sort's indices would keep all of them
    return distances.sort(stable=True).indices[:, :k].clone()


def _norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The lengths of rows, and which rows are zero; those get length 1, where the square root has a derivative."""
    squared = rows.square().sum(-1)
    zero = squared == 0  # NaN is not zero, and stays NaN
    return torch.where(zero, 1, squared).sqrt(), zero
