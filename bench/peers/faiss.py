"""faiss: exact flat indices. Filling the index is not timed, for it is done once."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, needs


def prototype_distance(problem: Problem) -> Run:
    import faiss
    import numpy as np  # torch may be there without it

    s, features, prototypes = problem.case.sizes, problem.tensors["features"], problem.tensors["prototypes"]
    if problem.case.dtype != "float32":
        raise UnsupportedError(f"has no {problem.case.dtype}")
    if problem.cotangent is not None:
        raise UnsupportedError("has no gradients")
    cosine = s.get("metric") == "cosine"
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(s["C"]) if cosine else faiss.IndexFlatL2(s["C"])
    index.add((F.normalize(prototypes, dim=-1) if cosine else prototypes).numpy())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        queries = F.normalize(features, dim=-1) if cosine else features
        found, indices = index.search(queries.numpy(), s["k"])
        distances = 1 - found if cosine else np.sqrt(np.maximum(found, 0))
        return torch.from_numpy(distances), torch.from_numpy(indices)

    return run


PEERS = [Peer("faiss", {"prototype_distance": prototype_distance}, needs("faiss", "faiss-cpu"))]
