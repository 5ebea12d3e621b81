"""prototype_distance: features that lie near a prototype each, as normal ones do."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from vsad import ops
from vsad.bench.cases import Case
from vsad.ops.prototype_distance.call import Metric
from vsad.ops.prototype_distance.reference import distances_at

from . import Judge, Problem, WrongError, accept, dtype, generator, share_of_budget

ROWS = 64  # on which a result is judged
VALUES = {"cpu": 1 << 31, "cuda": 1 << 34}  # the most differences that the judge's brute force computes


def inputs(case: Case) -> Problem:
    s = case.sizes
    g = generator(case)
    prototypes = torch.randn(s["P"], s["C"], generator=g, device=g.device)
    chosen = torch.randint(s["P"], (s["M"],), generator=g, device=g.device)
    features = prototypes[chosen] + 0.5 * torch.randn(s["M"], s["C"], generator=g, device=g.device)
    tensors = {"features": features.to(dtype(case)), "prototypes": prototypes.to(dtype(case))}
    cotangent = torch.randn(s["M"], s["k"], generator=g, device=g.device).to(dtype(case)) if case.backward else None
    return Problem(case, tensors, cotangent)


def metric(case: Case) -> Metric:
    return cast(Metric, case.sizes.get("metric", "euclidean"))


def flops(case: Case) -> float:
    """The dot products. Backward touches the k chosen prototypes only: a difference, a scale and two sums."""
    s = case.sizes
    return 2.0 * s["M"] * s["P"] * s["C"] + (4.0 * s["M"] * s["k"] * s["C"] if case.backward else 0)


def bytes(case: Case) -> float:
    """Features, bank, distances and indices once; backward reads the rows and writes both gradients."""
    return _inputs(case) * (2.0 if case.backward else 1.0) + result_bytes(case)


def result_bytes(case: Case) -> float:
    s = case.sizes
    return s["M"] * s["k"] * (dtype(case).itemsize + 8.0) + (_inputs(case) if case.backward else 0)


def _inputs(case: Case) -> int:
    s = case.sizes
    size: int = (s["M"] + s["P"]) * s["C"] * dtype(case).itemsize
    return size


def judge(problem: Problem) -> Judge:
    """On some rows, by float64 brute force; an index may be another one where it leads to the same distance.

    Of a library that gives no distances (None) only the indices are judged.
    """
    case, t = problem.case, problem.tensors
    M, P, C, k = (case.sizes[n] for n in "MPCk")
    count = max(4, min(M, ROWS, VALUES[case.device] // (P * C)))
    rows = torch.randperm(M, generator=torch.Generator().manual_seed(1))[:count].to(t["features"].device)
    some, bank = t["features"][rows], t["prototypes"]
    cotangent = None
    if problem.cotangent is not None:
        cotangent = torch.zeros_like(problem.cotangent)
        cotangent[rows] = problem.cotangent[rows]

    def solve(precise: bool) -> tuple[Tensor, ...]:
        f, p = (x.double() if precise else x for x in (some, bank))
        f, p = (x.detach().requires_grad_(cotangent is not None) for x in (f, p))
        distances, _ = ops.prototype_distance(f, p, k, metric=metric(case), backend="torch")
        if cotangent is None:
            return (distances,)
        return distances.detach(), *torch.autograd.grad(distances, (f, p), cotangent[rows].to(f.dtype))

    plain, exact = solve(False), solve(True)

    def check(result: Any) -> float:
        distances, indices, *grads = result
        if indices.shape != (M, k) or bool((indices < 0).any() | (indices >= P).any()):
            raise WrongError("indices outside the bank")
        found = indices[rows].long()
        if k > 1 and bool((found.sort(-1).values.diff(dim=-1) == 0).any()):
            raise WrongError("an index occurs twice")
        reached = distances_at(some.double(), bank.double(), found, metric(case)).to(some.dtype)
        shares = {"distance at the index": share_of_budget(reached, plain[0], exact[0])}
        if distances is not None:
            shares["distance"] = share_of_budget(distances[rows], plain[0], exact[0])
        if grads:
            shares["gradient of features"] = share_of_budget(grads[0][rows], plain[1], exact[1])
            shares["gradient of prototypes"] = share_of_budget(grads[1], plain[2], exact[2])
        return accept(shares)

    return Judge(Problem(case, t, cotangent), check)
