"""homography_warp: features and images, each through a homography of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vsad import ops
from vsad.bench.cases import Case

from . import Judge, Problem, accept, dtype, generator, homographies, image, share_of_budget

TAPS = {"nearest": 0, "bilinear": 4, "bicubic": 16}  # number of taps that are multiplied and added


def inputs(case: Case) -> Problem:
    s = case.sizes
    g = generator(case)
    shape = (s["B"], s["C"], s["H"], s["W"])
    tensors = {"input": image(case, g, *shape), "homography": homographies(g, s["B"], H=s["H"], W=s["W"])}
    return Problem(case, tensors, image(case, g, *shape) if case.backward else None)


def flops(case: Case) -> float:
    """One multiply-add per tap and channel, and the same again in the backward. Coordinates are not counted."""
    s = case.sizes
    values = s["B"] * s["C"] * s["H"] * s["W"]
    return values * 2.0 * TAPS[s["mode"]] * (2 if case.backward and not case.alone else 1)


def bytes(case: Case) -> float:
    """Input and output once; backward reads the output's gradient and writes the input's."""
    return 2.0 * result_bytes(case)


def result_bytes(case: Case) -> float:
    s = case.sizes
    return s["B"] * s["C"] * s["H"] * s["W"] * dtype(case).itemsize * (2.0 if case.backward and not case.alone else 1.0)


def judge(problem: Problem) -> Judge:
    """On everything: the definition is fast enough."""
    t, s = problem.tensors, problem.case.sizes
    floating = t["input"] if t["input"].is_floating_point() else t["input"].float()

    def solve(convert: Any) -> tuple[Tensor, ...]:
        leaf, H = convert(floating).detach(), convert(t["homography"])
        leaf.requires_grad_(problem.cotangent is not None)
        out = ops.homography_warp(leaf, H, mode=s["mode"], padding=s["padding"], backend="torch")
        assert isinstance(out, Tensor)
        if problem.cotangent is None:
            return (out,)
        return out.detach(), *torch.autograd.grad(out, [leaf], convert(problem.cotangent))

    plain, exact = solve(lambda x: x), solve(Tensor.double)
    if not t["input"].is_floating_point():
        plain = (plain[0].round().to(t["input"].dtype),)

    def check(result: Any) -> float:
        result = result if isinstance(result, tuple) else (result,)
        names = ("output", "gradient of input")
        return accept({n: share_of_budget(*ts) for n, *ts in zip(names, result, plain, exact, strict=False)})

    return Judge(problem, check)
