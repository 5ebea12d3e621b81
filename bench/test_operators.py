"""How fast the operators are beside their references and beside what torch offers; a wrong result is not timed."""

from __future__ import annotations

import functools

import pytest
import torch

from bench.peers import unfused
from vsad import _cpu, ops

ROUNDS = {"cpu": 20, "unfused": 5, "torch": 2}  # the slow ones vary less than they cost


def time(benchmark, function, way, *inputs):
    """The check before has warmed everything up."""
    benchmark.extra_info.update(threads=torch.get_num_threads(), isa=_cpu.isa())
    benchmark.pedantic(function, (way, *inputs), rounds=ROUNDS[way])


def refuse_wrong(got, plain, exact):
    """At most twice the error that the reference makes in float32 (half of it is the coordinates'), and rounding."""
    for a, p, b in zip(got, plain, exact, strict=True):
        error, own = ((t.double() - b).abs().max().item() for t in (a, p))
        budget = 2 * own + 50 * torch.finfo(a.dtype).eps * b.abs().max().item()
        assert error <= budget, f"not timed: error {error:.2e} > {budget:.2e}"


@functools.cache
def align_inputs():
    """Five views of 64 x 64 features of 64 channels, channels last; each looks into two others, slightly turned."""
    g = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 5, 64, 64, 64, generator=g).movedim(-1, 2) for _ in range(3)]
    H = torch.eye(3) + 0.05 * torch.randn(5, 2, 3, 3, generator=g)
    H[..., :2, 2] += 4 * torch.randn(5, 2, 2, generator=g)
    H[..., 2, :2] = 1e-3 * torch.randn(5, 2, 2, generator=g)
    H[..., 2, 2] = 1
    neighbors = torch.tensor([[(v - 1) % 5, (v + 1) % 5] for v in range(5)])
    return images, H, neighbors


def align(way, images, H, neighbors):
    if way == "unfused":
        return unfused.homography_align(*images, H, neighbors, heads=4, window=3)
    return ops.homography_align(*images, H, neighbors, heads=4, window=3, backend=way)


def with_gradients(way, images, H, neighbors):
    leaves = [t.detach().requires_grad_() for t in images]
    out = align(way, leaves, H, neighbors)
    return out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))


@functools.cache
def align_results(dtype):
    """The reference's output and gradients."""
    images, H, neighbors = align_inputs()
    return with_gradients("torch", [t.to(dtype) for t in images], H.to(dtype), neighbors)


@pytest.mark.parametrize("way", ROUNDS)
@pytest.mark.benchmark(group="homography_align forward, 5 x 64 x 64 x 64, N=2, R=3, 4 heads")
def test_homography_align_forward(benchmark, way):
    out = align(way, *align_inputs())
    refuse_wrong([out], align_results(torch.float32)[:1], align_results(torch.float64)[:1])
    time(benchmark, align, way, *align_inputs())


@pytest.mark.parametrize("way", ROUNDS)
@pytest.mark.benchmark(group="homography_align forward and backward, 5 x 64 x 64 x 64, N=2, R=3, 4 heads")
def test_homography_align_backward(benchmark, way):
    got = with_gradients(way, *align_inputs())
    refuse_wrong(got, align_results(torch.float32), align_results(torch.float64))
    time(benchmark, with_gradients, way, *align_inputs())


@functools.cache
def prototype_inputs():
    """Every feature lies near one prototype, as normal ones do."""
    g = torch.Generator().manual_seed(0)
    prototypes = torch.randn(4096, 256, generator=g)
    return prototypes[:1024] + 0.5 * torch.randn(1024, 256, generator=g), prototypes


@functools.cache
def prototype_results(dtype):
    return ops.prototype_distance(*(t.to(dtype) for t in prototype_inputs()), backend="torch")


def nearest(way, features, prototypes):
    if way == "unfused":
        return unfused.prototype_distance(features, prototypes, k=1)
    return ops.prototype_distance(features, prototypes, k=1, backend=way)


@pytest.mark.parametrize("way", ROUNDS)
@pytest.mark.benchmark(group="prototype_distance, M=1024, P=4096, C=256, k=1")
def test_prototype_distance(benchmark, way):
    exact, plain = prototype_results(torch.float64), prototype_results(torch.float32)
    distances, indices = nearest(way, *prototype_inputs())
    refuse_wrong([distances], [plain.distances], [exact.distances])
    assert torch.equal(indices, exact.indices), "not timed: another neighbour"
    time(benchmark, nearest, way, *prototype_inputs())
