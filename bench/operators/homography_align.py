"""homography_align: five views and their neighbors, channels last or contiguous."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vsad import ops
from vsad.bench.cases import Case

from . import Crop, Judge, Problem, accept, dtype, generator, homographies, image, share_of_budget

VIEWS = 4  # number of views whose output is judged


def inputs(case: Case) -> Problem:
    """Each view looks into the N views around it on a ring."""
    s = case.sizes
    V, N = s["V"], s["N"]
    g = generator(case)
    tensors = {name: image(case, g, s["B"], V, s["C"], s["H"], s["W"]) for name in ("query", "key", "value")}
    H = homographies(g, V, N, H=s["H"], W=s["W"])
    H = torch.eye(3, device=g.device).expand_as(H) if s.get("homography") == "identity" else H
    tensors["homography"] = H.to(torch.float64 if case.dtype == "float64" else torch.float32)
    steps = [step for i in range(1, N + 1) for step in (-i, i)][:N]
    tensors["neighbors"] = torch.tensor([[(v + step) % V for step in steps] for v in range(V)], device=g.device)
    return Problem(case, tensors, image(case, g, *tensors["query"].shape) if case.backward else None)


def flops(case: Case) -> float:
    """Two dot products' worth for each of the (R + 1)^2 taps: <q, k> and the sum of values; backward repeats the
    first and adds <dout, v>, dq, dk and dv. There are R^2 taps where none lies between pixels."""
    s = case.sizes
    side = s["R"] if s.get("homography") == "identity" else s["R"] + 1
    taps = s["B"] * s["V"] * s["H"] * s["W"] * s["N"] * side**2
    return taps * 2.0 * s["C"] * (7 if case.backward else 2)


def bytes(case: Case) -> float:
    """q, k, v and out once; backward reads them and dout, and writes dq, dk and dv."""
    return _image(case) * (4.0 + (8 if case.backward else 0))


def result_bytes(case: Case) -> float:
    return _image(case) * (4.0 if case.backward else 1.0)


def _image(case: Case) -> int:
    s = case.sizes
    size: int = s["B"] * s["V"] * s["C"] * s["H"] * s["W"] * dtype(case).itemsize
    return size


def judge(problem: Problem) -> Judge:
    """On some views: the last corner, where blocks end, and a square anywhere.

    Backward, on the last view's corner alone, and on all of its neighbors' gradients that flow from there.
    """
    t, s = problem.tensors, problem.case.sizes
    views = slice(max(0, s["V"] - (1 if problem.case.backward else VIEWS)), None)
    crops = [Crop.corner(s["H"], s["W"]), Crop.anywhere(torch.Generator().manual_seed(1), s["H"], s["W"])]
    sources, neighbors = t["neighbors"][views].unique(return_inverse=True)
    cotangent = None
    if problem.cotangent is not None:
        crops, cotangent = crops[:1], crops[0].mask(problem.cotangent)
        cotangent[:, : views.start] = 0
    small = {name: t[name][:, sources] for name in ("key", "value")}
    rounding = torch.finfo(t["homography"].dtype).eps * max(s["H"], s["W"])

    def solve(crop: Crop, precise: bool) -> tuple[Tensor, ...]:
        def convert(x: Tensor) -> Tensor:
            return x.double() if precise else x

        tensors = {name: convert(x) for name, x in small.items()}
        tensors["query"] = convert(crop.cut(t["query"][:, views]))
        tensors["homography"] = crop.shift(t["homography"][views], 0 if precise else rounding)
        tensors["neighbors"] = neighbors
        some = None if cotangent is None else convert(crop.cut(cotangent[:, views]))
        return reference(Problem(problem.case, tensors, some))

    answers = [(crop, solve(crop, False), solve(crop, True)) for crop in crops]
    names = ("output", "gradient of query", "gradient of key", "gradient of value")

    def check(result: Any) -> float:
        result = result if isinstance(result, tuple) else (result,)
        worst = 0.0
        for crop, plain, exact in answers:
            parts = [crop.cut(r[:, views]) if i < 2 else r[:, sources] for i, r in enumerate(result)]
            shares = {n: share_of_budget(*ts) for n, *ts in zip(names, parts, plain, exact, strict=False)}
            worst = max(worst, accept(shares))
        return worst

    return Judge(Problem(problem.case, t, cotangent), check)


def reference(problem: Problem) -> tuple[Tensor, ...]:
    """The definition: the output, and gradients where there is a cotangent."""
    t, s = problem.tensors, problem.case.sizes
    q, k, v = (t[n].detach().requires_grad_(problem.cotangent is not None) for n in ("query", "key", "value"))
    out = ops.homography_align(
        q, k, v, t["homography"], t["neighbors"], heads=s["heads"], window=s["R"], backend="torch"
    )
    assert isinstance(out, Tensor)
    if problem.cotangent is None:
        return (out,)
    return out.detach(), *torch.autograd.grad(out, (q, k, v), problem.cotangent)
