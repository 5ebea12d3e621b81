"""What the definitions promise beyond the matrix: exact identities, bounded memory, finite derivatives of roots."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.nn import functional as F

from tests.samples._sample import homographies, randn
from tests.test_ops import generator
from vsad.ops import homography_warp, prototype_distance
from vsad.ops.common.reference_sampling import project
from vsad.ops.common.registry import OPERATORS
from vsad.ops.homography_warp.call import MODES, PADDINGS
from vsad.ops.prototype_distance.call import METRICS, DistanceCall
from vsad.ops.prototype_distance.reference import reference as distance_reference

WAYS = [(mode, padding) for mode in MODES for padding in PADDINGS]
SHIFTS = [(0, 0), (3, -2), (-12, 1)]
HALVES = [(0.5, 0.5), (1.5, -0.5), (-2.5, 4.5)]


def _places(name):
    """Every backend of an operator and its device here."""
    for row in OPERATORS[name].backends:
        for device in row.devices:
            missing = row.missing or (None if device == "cpu" or torch.cuda.is_available() else "needs a GPU")
            marks = [pytest.mark.skip(reason=missing)] if missing else []
            yield pytest.param((row.name, device), id=f"{row.name}-{device}", marks=marks)
    yield pytest.param(("torch", "cpu"), id="torch-cpu")


def picture(dtype, size=(6, 21), channels=3):
    image = 100 * randn(generator(), 2, channels, *size)
    return image.clamp(0, 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)


def shift(x, y):
    return torch.tensor([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def warp(place, image, homography, **options):
    backend, device = place
    return homography_warp(image.to(device), homography.to(device), **options, backend=backend).cpu()


@pytest.mark.parametrize("place", list(_places("homography_warp")))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_an_identity_or_a_shift_by_pixels_keeps_every_bit(place, dtype, mode, padding):
    image = picture(dtype)
    assert torch.equal(warp(place, image, torch.eye(3), mode=mode, padding=padding), image)
    for x, y in SHIFTS:
        exact = homography_warp(image.double(), shift(x, y), mode=mode, padding=padding, backend="torch")
        assert torch.equal(warp(place, image, shift(x, y), mode=mode, padding=padding).double(), exact)


@pytest.mark.parametrize("place", list(_places("homography_warp")))
@pytest.mark.parametrize("padding", PADDINGS)
def test_half_a_pixel_goes_to_the_even_neighbor_everywhere(place, padding):
    image = picture(torch.float32)
    for x, y in HALVES:
        exact = homography_warp(image.double(), shift(x, y), mode="nearest", padding=padding, backend="torch")
        assert torch.equal(warp(place, image, shift(x, y), mode="nearest", padding=padding).double(), exact)
    even = torch.arange(0, 21).add(0.5).round().long().clamp(max=20)
    border = homography_warp(image, shift(0.5, 0), mode="nearest", padding="border", backend="torch")
    assert torch.equal(border, image[..., even])


def with_grid_sample(input, homography, size, mode, padding):
    height, width = input.shape[-2:]
    sx, sy, front = project(homography, size, 1e9, (height, width))
    grid = torch.stack([(2 * sx + 1) / width - 1, (2 * sy + 1) / height - 1], dim=-1)
    out = F.grid_sample(input, grid, mode=mode, padding_mode=padding, align_corners=False)
    return torch.where(front[:, None], out, 0)


@pytest.mark.parametrize("source", [(1, 5), (7, 9), (20, 3)])
@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_the_warp_is_grid_sample_in_float64(mode, padding, source):
    """Values and gradients; random points lie at no half pixel, where the two may differ."""
    size = (11, 30)
    input = randn(generator(), 2, 3, *source).requires_grad_()
    H = (homographies(generator(1), (2,), size, source, 1.5) * torch.tensor([[1.7], [2.3], [1]])).requires_grad_()
    results = []
    for out in (
        homography_warp(input, H, size, mode=mode, padding=padding, backend="torch"),
        with_grid_sample(input, H, size, mode, padding),
    ):
        grad = randn(generator(2), *out.shape)
        results.append((out.detach(), *torch.autograd.grad(out, (input, H), grad, allow_unused=True)))
    for got, exact in zip(*results):
        if got is not None and exact is not None:
            torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_the_warp_can_be_differentiated_twice(mode, padding):
    input = randn(generator(), 1, 2, 5, 6).requires_grad_()
    H = homographies(generator(1), (1,), (4, 5), (5, 6)).requires_grad_()

    def function(input, H):
        return homography_warp(input, H, (4, 5), mode=mode, padding=padding, backend="torch")

    assert gradgradcheck(function, (input, H), fast_mode=True)


def test_a_warp_of_no_images_still_has_gradients():
    H = torch.eye(3).requires_grad_()
    homography_warp(torch.ones(0, 3, 4, 5, requires_grad=True), H, backend="torch").sum().backward()
    assert torch.equal(H.grad, torch.zeros(3, 3))


@pytest.mark.parametrize("metric", METRICS)
def test_distances_can_be_differentiated_twice_where_a_root_cannot(metric):
    """Rows of zeros, and features that are prototypes: the root of zero has derivatives that are not finite."""
    features, prototypes = randn(generator(), 5, 4), randn(generator(1), 7, 4)
    features[0], features[1], prototypes[2] = 0, prototypes[3], 0
    leaves = features.requires_grad_(), prototypes.requires_grad_()
    weights = randn(generator(2), 5, 7)
    distances = prototype_distance(*leaves, 7, metric=metric, backend="torch").distances
    first = torch.autograd.grad(distances, leaves, weights, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    assert all(g.isfinite().all() for g in (*first, *second))
    if metric == "cosine":
        assert first[0][0].eq(0).all()
        assert first[1][2].eq(0).all()
    away = randn(generator(3), 5, 4).requires_grad_(), randn(generator(4), 7, 4).requires_grad_()
    assert gradgradcheck(lambda f, p: prototype_distance(f, p, 3, metric=metric, backend="torch").distances, away)


@pytest.mark.parametrize("metric", METRICS)
def test_the_distance_takes_rows_without_channels_and_batches_of_vmap(metric):
    def function(features, prototypes):
        return distance_reference(DistanceCall(features, prototypes, None, 2, metric))

    distances, indices = function(torch.ones(3, 0), torch.ones(4, 0))
    assert distances.eq(1 if metric == "cosine" else 0).all()
    assert torch.equal(indices, torch.tensor([[0, 1]]).expand(3, 2))
    features, prototypes = randn(generator(), 3, 5, 4), randn(generator(1), 3, 9, 4)
    for dims in ((0, 0), (0, None), (None, 0)):
        given = [t if dim == 0 else t[0] for t, dim in zip((features, prototypes), dims)]
        batched = torch.func.vmap(function, dims)(*given)
        calls = [function(*(t if dim is None else t[i] for t, dim in zip(given, dims))) for i in range(3)]
        for got, parts in zip(batched, zip(*calls)):
            torch.testing.assert_close(got, torch.stack(parts))


PEAK = """
import re, torch
from vsad.ops import prototype_distance

def peak():  # not ru_maxrss: that survives exec, and would begin with what the parent process held
    return int(re.search("VmHWM:.*?([0-9]+) kB", open("/proc/self/status").read())[1]) * 1024

def call(M, P, k):
    features, prototypes = torch.ones(M, 32), torch.ones(P, 32)
    before = peak()
    prototype_distance(features, prototypes, k, metric="cosine", backend="torch")
    return peak() - before

call(4, 4, 1)  # the code and the threads
print(max(call(400, 50_000, 1), call(20_000, 100, 64)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_distance_needs_no_more_than_64_mb():
    """All sorted indices would take 160 MB, and all differences as much."""
    seen = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    assert int(seen) <= 64e6
