"""flash-kmeans: its kernel that assigns points to centroids. It gives indices only; the norms are there beforehand."""

from __future__ import annotations

import torch

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, needs


def prototype_distance(problem: Problem) -> Run:
    case = problem.case
    if case.sizes["k"] != 1 or problem.cotangent is not None or case.sizes.get("metric", "euclidean") == "cosine":
        raise UnsupportedError("finds the nearest centroid only")
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    f, p = (problem.tensors[name][None] for name in ("features", "prototypes"))  # a batch of one
    f_norms, p_norms = (t.float().square().sum(-1) for t in (f, p))
    indices = torch.empty(f.shape[:2], dtype=torch.int32, device=f.device)

    def run() -> tuple[None, torch.Tensor]:
        return None, euclid_assign_triton(f, p, f_norms, out=indices, c_sq=p_norms)[0, :, None]

    return run


PEERS = [
    Peer(
        "flash-kmeans",
        {"prototype_distance": prototype_distance},
        needs("flash_kmeans", "flash-kmeans", extra=None),
        devices=("cuda",),
        approximate=True,
    )
]
