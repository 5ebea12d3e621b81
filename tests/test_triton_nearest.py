"""The Triton kernels of prototype_distance and greedy_coreset under Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from tests.simulated import in_turn
from tests.test_prototype_distance import BANKS, plain
from vsad.ops import greedy_coreset, prototype_distance
from vsad.ops.prototype_distance.reference import all_distances

pytest.importorskip("triton", reason="needs triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # must be set before triton is first imported
interpreted = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
HARD = {make.__name__: make for make in BANKS}


@pytest.fixture
def uncertified(monkeypatch):
    """Counts the features that brute force measures after screening."""
    from vsad.ops.prototype_distance import triton as launcher

    counts = []
    brute_force = launcher._brute_force

    def counted(operands, listed, outputs):
        counts.append(len(operands.features) if listed is None else int(listed.total))
        return brute_force(operands, listed, outputs)

    monkeypatch.setattr(launcher, "_brute_force", counted)
    return counts


def check(features, bank, k, metric, result):
    """The prototypes found are as near as the nearest, up to the rounding of float32; NaN comes last."""
    distances, indices = result
    exact = all_distances(features.double(), bank.double(), metric)
    exact = exact.square() / 2 if metric == "cosine" else exact.square() if metric == "sqeuclidean" else exact
    nearest = exact.sort(stable=True).values[:, :k]
    close = {"rtol": 1e-5, "atol": 1e-5 if metric == "cosine" else 1e-37, "equal_nan": True}
    torch.testing.assert_close(distances.double(), nearest, **close)
    torch.testing.assert_close(exact.gather(1, indices), nearest, **close)
    assert all(len(set(row)) == k for row in indices.tolist())


@interpreted
@pytest.mark.parametrize(
    ("name", "k", "metric"),
    in_turn(
        [(name,) for name in HARD if name not in ("underflow", "broken", "mostly_broken")],
        [(1, "euclidean"), (3, "sqeuclidean"), (2, "cosine")],
    ),
)
def test_hard_banks_against_float64(uncertified, name, k, metric):
    features, bank = HARD[name]()
    features = features[:24]
    check(features, bank, k, metric, prototype_distance(features, bank, k, metric=metric, backend="triton"))
    if name in ("plain", "offset", "tiny"):
        assert uncertified == [0]  # screening certifies them all


@interpreted
@pytest.mark.parametrize("name", ["broken", "mostly_broken", "underflow"])
@pytest.mark.parametrize(("k", "metric"), [(2, "euclidean"), (5, "cosine")])
def test_what_is_not_finite_comes_last(name, k, metric):
    features, bank = (t[:20] if i == 0 else t for i, t in enumerate(HARD[name]()))
    got = prototype_distance(features, bank, k, metric=metric, backend="triton")
    expected = prototype_distance(features, bank, k, metric=metric, backend="cpu")
    torch.testing.assert_close(got.distances, expected.distances, equal_nan=True, rtol=1e-5, atol=1e-6)
    assert torch.equal(got.indices, expected.indices)


@interpreted
def test_features_that_screening_cannot_certify_are_measured(uncertified):
    """Duplicates of the nearest prototype, more than a list holds: of equals the lower index comes first."""
    features, bank = plain(M=20)
    features[:5] = bank[40] + 0.01 * features[:5]
    bank[torch.arange(100, 700, 20)] = bank[40].clone()
    result = prototype_distance(features, bank, 2, backend="triton")
    assert 5 <= uncertified[0] < 20
    assert result.indices[:5].tolist() == [[40, 100]] * 5
    check(features, bank, 2, "euclidean", result)


@interpreted
def test_a_bound_that_is_too_wide_costs_time_and_nothing_else(uncertified, monkeypatch):
    from vsad.ops.prototype_distance import triton as launcher

    original = launcher._screened_search

    def pessimist(*arguments):
        listed = original(*arguments)
        listed.features.copy_(torch.arange(len(features)).flip(0))
        listed.total.fill_(len(features))
        return listed

    features, bank = plain(M=30)
    certified = prototype_distance(features, bank, 3, backend="triton")
    monkeypatch.setattr(launcher, "_screened_search", pessimist)
    measured = prototype_distance(features, bank, 3, backend="triton")
    assert uncertified == [0, 30]
    assert torch.equal(certified.indices, measured.indices)
    torch.testing.assert_close(certified.distances, measured.distances, rtol=1e-6, atol=0)


@interpreted
@pytest.mark.parametrize(
    ("M", "P", "C", "k"), [(1, 4200, 40, 1), (140, 1300, 17, 2), (9, 700, 260, 1), (5, 530, 33, 32)]
)
def test_bank_in_parts_and_wide_rows(uncertified, M, P, C, k):
    features, bank = plain(M, P, C)
    check(features, bank, k, "euclidean", prototype_distance(features, bank, k, backend="triton"))
    assert uncertified[0] <= M // 4


@interpreted
def test_strides_do_not_matter():
    features, bank = plain(M=20)
    wide = torch.full((2 * len(bank), 2 * bank.shape[1]), float("nan"))
    wide[::2, ::2] = bank
    expected = prototype_distance(features, bank, 2, backend="triton")
    got = prototype_distance(features.T.contiguous().T, wide[::2, ::2], 2, backend="triton")
    assert torch.equal(got.distances, expected.distances)
    assert torch.equal(got.indices, expected.indices)


@interpreted
def test_gradients_are_the_same_every_time_and_many_neighbors_are_refused():
    features, bank = plain(40, 30, 20)

    def gradients():
        leaves = [t.clone().requires_grad_() for t in (features, bank)]
        return torch.autograd.grad(prototype_distance(*leaves, 3, backend="triton").distances.sum(), leaves)

    for a, b in zip(gradients(), gradients()):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="takes k up to 32, got 33"):
        prototype_distance(features, bank.repeat(2, 1), 33, backend="triton")


@interpreted
@pytest.mark.parametrize("scale", [1e-22, 1, 1e15])
@pytest.mark.parametrize("kind", ["normal", "duplicates", "heavy tails", "offset"])
def test_picks_are_the_reference_s(kind, scale):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(300, 23, generator=g)
    if kind == "duplicates":
        features = features[torch.arange(300) % 31]
    if kind == "heavy tails":
        features = features * torch.randn(300, 1, generator=g).exp() ** 3
    if kind == "offset":
        features = features + 1e3
    features = (scale * features).T.contiguous().T
    expected = greedy_coreset(features, 60, start=1, backend="torch")
    assert torch.equal(greedy_coreset(features, 60, start=1, backend="triton"), expected)


@pytest.mark.skipif(INTERPRETED, reason="is that process")
def test_kernels_under_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout
