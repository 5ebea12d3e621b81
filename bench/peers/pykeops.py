"""PyKeOps: a symbolic distance matrix, reduced by code that it compiles for the shape."""

from __future__ import annotations

from typing import Any

import torch

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, needs


def prototype_distance(problem: Problem) -> Run:
    from pykeops.torch import LazyTensor

    k, metric = problem.case.sizes["k"], problem.case.sizes.get("metric", "euclidean")
    if problem.case.dtype not in ("float32", "float64") or problem.cotangent is not None or metric != "euclidean":
        raise UnsupportedError("is written here for Euclidean distances forward, in float32 and float64")
    features, prototypes = problem.tensors["features"], problem.tensors["prototypes"]

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        f, p = LazyTensor(features[:, None]), LazyTensor(prototypes[None])
        squared: Any = ((f - p) ** 2).sum(-1)
        best, indices = squared.Kmin_argKmin(k, dim=1)
        return best.sqrt(), indices.long()

    return run


PEERS = [Peer("PyKeOps", {"prototype_distance": prototype_distance}, needs("pykeops", "pykeops"), compiles=True)]
