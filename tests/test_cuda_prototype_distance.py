"""The CUDA kernels of prototype_distance in every way they can take: hard banks, both formats, failing certificates."""

import pytest
import torch

import tests.test_prototype_distance as banks
from tests.conftest import cuda_device
from vsad.ops.prototype_distance import _all_distances

cuda = pytest.importorskip("vsad.ops.cuda.prototype_distance", reason="needs the compiled CUDA kernels")
WAYS = [(screen, formats) for screen in ("mma", "wgmma") for formats in ("bfloat16", "int8", "both")]


def nearest(features, bank, k, metric, *way, packed=None):
    """Results in the way forced, and how many features each format left to the next pass."""
    device = cuda_device()
    screen, formats = way if way else ("none", "bfloat16")
    *result, work = cuda.nearest(
        features.to(device), bank.to(device), packed, k, metric, screen=screen, formats=formats
    )
    left = work[:8].view(torch.int32).tolist()
    return [t.cpu() for t in result], dict(zip(("bfloat16", "int8"), left))


@pytest.fixture(params=WAYS, ids="-".join)
def way(request):
    cuda_device(request.param[0])
    return request.param


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("make", banks.BANKS, ids=lambda make: make.__name__)
def test_hard_banks(make, metric, k, way):
    """As near as brute force finds, which is as near as the nearest in float64."""
    features, bank = make()
    (distances, indices), _ = nearest(features, bank, k, metric, *way)
    (expected, _), _ = nearest(features, bank, k, metric)
    torch.testing.assert_close(distances, expected, rtol=1e-5, atol=1e-37, equal_nan=True)
    if make.__name__ in ("underflow", "broken", "mostly_broken"):
        return
    exact = _all_distances(features.double(), bank.double(), metric)
    exact = exact.square() / 2 if metric == "cosine" else exact
    rtol, atol = 1e-5, 1e-5 if metric == "cosine" else 1e-37
    torch.testing.assert_close(exact.gather(1, indices), exact.sort().values[:, :k], rtol=rtol, atol=atol)
    torch.testing.assert_close(distances.double(), exact.gather(1, indices), rtol=rtol, atol=atol)
