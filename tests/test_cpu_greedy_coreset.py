"""What only the compiled greedy_coreset promises: the same picks on every instruction set, thread count and layout."""

import pytest
import torch

from tests.samples.greedy_coreset import KINDS, points
from vsad.ops import greedy_coreset

_cpu = pytest.importorskip("vsad._cpu", reason="needs the compiled CPU kernels")


def reference(features, size):
    return greedy_coreset(features, size, start=1, backend="torch")


@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_the_reference_s_on_every_instruction_set_and_any_number_of_threads(isa, threads, kind):
    features = points(kind=kind)
    expected = reference(features, 600)
    for count in (1, 2, 5):
        threads(count)
        assert torch.equal(greedy_coreset(features, 600, start=1, backend="cpu"), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-3, 1e15, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squares_that_leave_the_range_of_float32_are_measured(isa, scale, dtype):
    features = scale * points(M=800).to(dtype)
    features[::9] *= 1e-6
    features[5] *= 1e9
    assert torch.equal(greedy_coreset(features, 550, start=1, backend="cpu"), reference(features, 550))


def test_squares_that_leave_the_range_of_float64(isa):
    features = points(M=100).double()
    features[::3] *= 1e200
    features[1::3] *= 1e-200
    assert torch.equal(greedy_coreset(features, 90, start=1, backend="cpu"), reference(features, 90))


def test_an_offset_that_swallows_most_digits(isa):
    features = 1e4 + points(M=1500)
    assert torch.equal(greedy_coreset(features, 600, start=1, backend="cpu"), reference(features, 600))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_any_strides(dtype):
    features = points(M=900).to(dtype)
    expected = reference(features, 200)
    padded = torch.full((900, 50), float("nan"), dtype=dtype)
    padded[:, 3:40] = features
    backwards = torch.empty(37, 1800, dtype=dtype)
    backwards[:, ::2] = features.T
    for placed in (padded[:, 3:40], features.T.contiguous().T, backwards[:, ::2].T):
        assert not placed.is_contiguous()
        assert torch.equal(greedy_coreset(placed, 200, start=1, backend="cpu"), expected)
    assert torch.equal(greedy_coreset(features[:1].expand(40, 37), 40, start=3, backend="cpu").sort().values,
                       torch.arange(40))  # fmt: skip


def test_rows_that_are_not_finite_come_last():
    features = points(M=50)
    features[4, 0], features[7] = float("nan"), float("inf")
    picks = greedy_coreset(features, 50, start=1, backend="cpu").tolist()
    assert picks[-2:] == [4, 7]
    assert greedy_coreset(features, 3, start=4, backend="cpu").tolist()[:2] == [4, 0]
