"""The definition of prototype_distance in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import compute_dtype
from .call import DistanceCall

BLOCK_BYTES = 64 << 20  # memory of one block of rows of the distance matrix


def reference(call: DistanceCall) -> tuple[Tensor, Tensor]:
    """The definition: brute force in blocks of rows, then the distances to the chosen ones by direct difference."""
    features, prototypes, _, k, metric = call
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
    rows = max(1, BLOCK_BYTES // (p.shape[0] * p.element_size()))
    blocks = [all_distances(block, p, metric).sort(stable=True).indices[:, :k] for block in f.split(rows)]
    return torch.cat(blocks) if blocks else torch.empty((0, k), dtype=torch.int64, device=f.device)


def all_distances(f: Tensor, p: Tensor, metric: str) -> Tensor:
    """Distances ``(M, P)`` that rank as the metric does; equal prototypes get equal bits, as no matrix product can."""
    if metric != "cosine":
        return torch.cdist(f, p, compute_mode="donot_use_mm_for_euclid_dist")
    norm_f, norm_p = (t.square().sum(-1, keepdim=True).sqrt() for t in (f, p))
    f, p = (t / torch.where(norm == 0, 1, norm) for t, norm in ((f, norm_f), (p, norm_p)))
    apart = torch.cdist(f, p, compute_mode="donot_use_mm_for_euclid_dist")  # sqrt(2 * cosine distance)
    return torch.where((norm_f == 0) | (norm_p == 0).mT, 2**0.5, apart)
