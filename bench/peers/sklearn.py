"""scikit-learn: brute-force NearestNeighbors, fitted before the clock starts."""

from __future__ import annotations

from typing import Any

import torch

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, needs


def prototype_distance(problem: Problem) -> Run:
    from sklearn.neighbors import NearestNeighbors

    s, features, prototypes = problem.case.sizes, problem.tensors["features"], problem.tensors["prototypes"]
    if problem.case.dtype not in ("float32", "float64"):
        raise UnsupportedError(f"has no {problem.case.dtype}")
    if problem.cotangent is not None:
        raise UnsupportedError("has no gradients")
    metric = s.get("metric", "euclidean")
    index: Any = NearestNeighbors(n_neighbors=s["k"], algorithm="brute", metric=metric).fit(prototypes.numpy())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        distances, indices = index.kneighbors(features.numpy())
        return torch.from_numpy(distances), torch.from_numpy(indices)

    return run


PEERS = [Peer("scikit-learn", {"prototype_distance": prototype_distance}, needs("sklearn", "scikit-learn"))]
