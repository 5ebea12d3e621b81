"""greedy_coreset: Gaussian points, which are the hardest, or clusters, as features of real images have."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad.bench.cases import Case

from . import Judge, Problem, WrongError, generator

CLUSTERS = 200
JUDGED_PICKS = 8
TIE = 1e-5  # Distances that differ relatively by less count as equal in float32.


def inputs(case: Case) -> Problem:
    s = case.sizes
    g = generator(case)
    points = torch.randn(s["M"], s["C"], generator=g, device=g.device)
    if s["data"] == "clustered":
        centers = 2 * torch.randn(CLUSTERS, s["C"], generator=g, device=g.device)
        points = centers[torch.randint(CLUSTERS, (s["M"],), generator=g, device=g.device)] + 0.5 * points
    return Problem(case, {"features": points})


def flops(case: Case) -> float:
    """Operations of the plain algorithm: a difference, a square and a sum for each point, channel and pick."""
    s = case.sizes
    return 3.0 * s["M"] * s["C"] * s["size"]


def bytes(case: Case) -> float:
    """The points once, the picks once."""
    s = case.sizes
    return 4.0 * s["M"] * s["C"] + result_bytes(case)


def result_bytes(case: Case) -> float:
    return 8.0 * case.sizes["size"]


def judge(problem: Problem) -> Judge:
    """At some steps of the picking, every time from the picks before it: the next one is the farthest point."""
    points, size = problem.tensors["features"].double(), problem.case.sizes["size"]
    steps = sorted({max(1, round(size * i / JUDGED_PICKS)) for i in range(1, JUDGED_PICKS)} | {size - 1})

    def check(picks: Tensor) -> float:
        if picks.shape != (size,) or picks.unique().numel() != size or picks[0] != 0:
            raise WrongError(f"not {size} different picks that start at 0")
        nearest = torch.full((points.shape[0],), float("inf"), dtype=torch.float64, device=points.device)
        worst, done = 0.0, 0
        for step in (s for s in steps if 0 < s < size):
            new = points[picks[done:step]]
            for chunk, rows in zip(points.split(4096), nearest.split(4096)):  # never all distances at once
                rows.copy_(torch.minimum(rows, torch.cdist(chunk, new).amin(1)))
            done = step
            farthest = float(nearest.max())
            worst = max(worst, (farthest - float(nearest[picks[step]])) / (TIE * farthest))
            if worst > 1:
                raise WrongError(f"pick {step} is not the farthest point, by {worst:.3g} times the tie")
        return worst

    return Judge(problem, check)
