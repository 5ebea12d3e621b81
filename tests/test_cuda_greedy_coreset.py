"""What only the CUDA greedy_coreset promises: the plain algorithm's picks, whatever its screening can tell."""

import pytest
import torch

from tests.samples.greedy_coreset import KINDS, points
from tests.simulated import in_turn
from vsad.ops import greedy_coreset
from vsad.ops.common.registry import OPERATORS

ROW = OPERATORS["greedy_coreset"].backend("cuda")
DEVICE = ROW.devices[0]
HERE = ROW.missing is None and (DEVICE == "cpu" or torch.cuda.is_available())
pytestmark = pytest.mark.skipif(not HERE, reason="needs the CUDA kernels and a GPU, or their emulator")


def cuda(features, size, start=1):
    return greedy_coreset(features.to(DEVICE), size, start=start, backend="cuda").cpu()


def check(features, size, start=1):
    assert torch.equal(cuda(features, size, start), greedy_coreset(features, size, start=start, backend="torch"))


@pytest.mark.parametrize(("kind", "order"), in_turn([(kind,) for kind in KINDS], [("forward",), ("reverse",), ("7",)]))
def test_picks_are_the_reference_s_in_any_order_of_threads(kind, order, monkeypatch):
    if DEVICE == "cuda" and order != "forward":
        pytest.skip("a GPU has an order of its own")
    monkeypatch.setenv("VSAD_EMULATOR_ORDER", order)  # the order in which the emulator runs threads
    check(points(M=650, kind=kind), 130)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-3, 1e15, 1e25])
def test_squares_that_leave_the_range_of_float32(scale):
    features = scale * points(M=400)
    features[::9] *= 1e-6
    features[5] *= 1e9
    check(features, 150)


def test_an_offset_that_swallows_most_digits():
    check(1e4 + points(M=700), 150)


@pytest.mark.parametrize("C", [1, 8, 64, 129, 200])
def test_channels_that_do_and_do_not_fill_what_is_staged_at_once(C):
    check(points(M=420, C=C), 150)


def test_all_equal_rows_are_picked_in_order():
    assert cuda(torch.full((700, 5), 3.0), 700, start=400).tolist() == [400, *range(400), *range(401, 700)]


def test_every_point_can_be_picked():
    check(points(M=501, C=3), 501)


def test_rows_that_float16_cannot_hold():
    features = points(M=600)
    features[7::50] *= 1e4
    features[3] *= 1e12
    features[300:310] = 1e-7 * features[:10]
    check(features, 120)
    check(features.flip(0), 120)


def test_a_sample_without_spread():
    features = torch.zeros(2500, 3)
    features[1::3] = points(M=833, C=3)  # every third row is sampled, from the first
    check(features, 60)


def test_differences_that_only_float64_tells():
    features = points(M=300, C=8)
    features[150:] = features[:150] * (1 + 2**-22)
    check(features, 290)


def test_distances_too_far_apart_for_32_bits():
    """Squares from 2^-298 to 2^254 in one round."""
    far = torch.linspace(-149, 127, 120, dtype=torch.float64).round().exp2()
    shuffled = far[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    check(torch.stack([shuffled, torch.zeros(120)], 1).float(), 110)


@pytest.mark.parametrize("dtype", ROW.dtypes)
def test_any_strides(dtype):
    features = points(M=300).to(dtype)
    expected = greedy_coreset(features, 60, start=1, backend="torch")
    padded = torch.full((300, 50), float("nan"), dtype=dtype)
    padded[:, 3:40] = features
    backwards = torch.empty(37, 600, dtype=dtype)
    backwards[:, ::2] = features.T
    for whole, view in (
        (padded, lambda t: t[:, 3:40]),
        (features.T.contiguous(), lambda t: t.T),
        (backwards, lambda t: t[:, ::2].T),
    ):
        placed = view(whole.to(DEVICE))
        assert not placed.is_contiguous()
        assert torch.equal(greedy_coreset(placed, 60, start=1, backend="cuda").cpu(), expected)
    same = features[:1].to(DEVICE).expand(40, 37)
    assert greedy_coreset(same, 40, start=3, backend="cuda").tolist() == [3, 0, 1, 2, *range(4, 40)]


def test_rows_that_are_not_finite_come_last():
    features = points(M=50)
    features[4, 0], features[7] = float("nan"), float("inf")
    assert cuda(features, 50)[-2:].tolist() == [4, 7]
    assert cuda(features, 3, start=4)[:2].tolist() == [4, 0]
    check(features, 50, start=7)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_joins_a_cuda_graph():
    features = points(M=2000).to(DEVICE)
    expected = greedy_coreset(features, 300, start=1, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        picks = greedy_coreset(features, 300, start=1, backend="cuda")
    features.copy_(features.flip(0))
    graph.replay()
    assert torch.equal(picks, greedy_coreset(features, 300, start=1, backend="cuda"))
    assert not torch.equal(picks, expected)
