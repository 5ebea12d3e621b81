"""vsad's own backends, from the operators' tables: a new kernel is here as soon as its row is there."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vsad import ops
from vsad.bench.operators import Problem
from vsad.bench.operators.model import reference_bytes
from vsad.bench.operators.model import step as step_of
from vsad.ops.common.registry import OPERATORS, REFERENCE

from . import Peer, Run, UnsupportedError, fits, native, run_of


def homography_align(problem: Problem, backend: str) -> Run:
    t, s = problem.tensors, problem.case.sizes

    def function(query: Tensor, key: Tensor, value: Tensor) -> Any:
        return ops.homography_align(
            query, key, value, t["homography"], t["neighbors"], heads=s["heads"], window=s["R"], backend=backend
        )

    return run_of(function, problem, "query", "key", "value")


def homography_warp(problem: Problem, backend: str) -> Run:
    t, s = problem.tensors, problem.case.sizes

    def function(input: Tensor) -> Any:
        return ops.homography_warp(input, t["homography"], mode=s["mode"], padding=s["padding"], backend=backend)

    return run_of(function, problem, "input")


def prototype_distance(problem: Problem, backend: str) -> Run:
    s, features, prototypes = problem.case.sizes, problem.tensors["features"], problem.tensors["prototypes"]
    metric = s.get("metric", "euclidean")
    bank: Tensor | ops.PackedPrototypes = prototypes
    if s.get("bank") == "packed":
        if backend == REFERENCE:
            raise UnsupportedError("has no packed bank")
        bank = ops.pack_prototypes(prototypes, metric=metric)

    def forward() -> Any:
        with torch.no_grad():
            return ops.prototype_distance(features, bank, s["k"], metric=metric, backend=backend)

    def both() -> Any:
        f, p = (t.detach().requires_grad_() for t in (features, prototypes))
        distances, indices = ops.prototype_distance(f, p, s["k"], metric=metric, backend=backend)
        return distances.detach(), indices, *torch.autograd.grad(distances, (f, p), problem.cotangent)

    return forward if problem.cotangent is None else both


def greedy_coreset(problem: Problem, backend: str) -> Run:
    points, size = problem.tensors["features"], problem.case.sizes["size"]
    return lambda: ops.greedy_coreset(points, size, start=0, backend=backend)


def model(problem: Problem, backend: str) -> Run:
    """Every operator of a model on one backend."""
    native(problem)
    fits(reference_bytes(problem.case) if backend == REFERENCE else 0, problem.case.device)
    step = step_of(problem)

    def run() -> Any:
        with ops.using(backend):
            return step()

    return run


SLOW = {"homography_align": 0.5, "prototype_distance": 1.0}  # the reference
SLOW_ON_GPU = {"homography_align": 200.0, "prototype_distance": 1000.0, "greedy_coreset": 100.0}
FUNCTIONS = {f.__name__: f for f in (homography_align, homography_warp, prototype_distance, greedy_coreset, model)}


def _peers() -> list[Peer]:
    """A peer for every name in the tables; where one backend is unusable for all operators, the peer is missing."""
    reasons: dict[str, dict[str, str | None]] = {}
    devices: dict[str, set[str]] = {REFERENCE: {"cpu", "cuda"}}
    for op in OPERATORS.values():
        for row in op.backends:
            reasons.setdefault(row.name, {})[op.name] = row.missing
            devices.setdefault(row.name, set()).update(row.devices)
    reasons[REFERENCE] = dict.fromkeys(OPERATORS)
    return [_peer(backend, by_op, devices[backend]) for backend, by_op in reasons.items()]


def _peer(backend: str, reasons: dict[str, str | None], devices: set[str]) -> Peer:
    operators = {op: partial(FUNCTIONS[op], backend=backend) for op in (*reasons, "model") if op in FUNCTIONS}
    missing = None if None in reasons.values() else next(iter(reasons.values()))
    slow, slow_on_gpu = (SLOW, SLOW_ON_GPU) if backend == REFERENCE else ({}, {})
    return Peer(
        f"vsad {backend}", operators, missing, devices=tuple(sorted(devices)), gflops=slow, gpu_gflops=slow_on_gpu
    )


PEERS = _peers()
