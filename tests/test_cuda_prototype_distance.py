"""The CUDA kernels of prototype_distance with every screen and format: hard banks, and certificates that fail."""

import importlib

import pytest
import torch

import tests.test_prototype_distance as banks
from tests.conftest import cuda_device
from tests.simulated import in_turn
from vsad.ops.prototype_distance.call import DistanceCall
from vsad.ops.prototype_distance.reference import all_distances, reference
from vsad.ops.prototype_distance.registration import _cuda_why_not

_cuda = pytest.importorskip("vsad._cuda", reason="needs the compiled CUDA kernels")
cuda = importlib.import_module("vsad.ops.prototype_distance.cuda")
WAYS = [(screen, formats) for screen in ("mma", "wgmma") for formats in ("bfloat16", "both")]


def nearest(features, bank, k, metric="euclidean", way=("none", "bfloat16"), packed=None):
    """Results of a forced screen and formats, and the number of features that each format did not certify."""
    device = cuda_device()
    packed = None if packed is None else packed.to(device)
    call = DistanceCall(features.to(device), bank.to(device), packed, k, metric)
    *result, work = cuda.screened_search(call, *way)
    left = work[:8].view(torch.int32).tolist()
    return [t.cpu() for t in result], dict(zip(("bfloat16", "int8"), left))


def clusters(M, P, C, spread=0.01):
    """Features beside prototypes: the nearest stands out, so that every certificate must succeed."""
    g = banks.generator()
    bank = torch.randn(P, C, generator=g)
    features = bank[torch.randint(0, P, (M,), generator=g)] + spread * torch.randn(M, C, generator=g)
    return features, bank


@pytest.fixture(params=WAYS, ids="-".join)
def way(request):
    cuda_device(request.param[0])
    return request.param


@pytest.fixture(params=["mma", "wgmma"])
def screen(request):
    cuda_device(request.param)
    return request.param


@pytest.mark.parametrize(
    ("make", "metric", "k", "formats"),
    in_turn([(make,) for make in banks.BANKS], [("euclidean", 1, "bfloat16"), ("cosine", 3, "both")]),
)
def test_hard_banks(make, metric, k, formats, screen):
    """As near as brute force finds, which is as near as the nearest in float64."""
    features, bank = make()
    (distances, indices), _ = nearest(features, bank, k, metric, (screen, formats))
    (expected, _), _ = nearest(features, bank, k, metric)
    torch.testing.assert_close(distances, expected, rtol=1e-5, atol=1e-37, equal_nan=True)
    assert all(len(set(row)) == k for row in indices.tolist())
    if make.__name__ in ("underflow", "broken", "mostly_broken"):
        return
    exact = all_distances(features.double(), bank.double(), metric)
    exact = exact.square() / 2 if metric == "cosine" else exact
    rtol, atol = 1e-5, 1e-5 if metric == "cosine" else 1e-37
    torch.testing.assert_close(exact.gather(1, indices), exact.sort().values[:, :k], rtol=rtol, atol=atol)
    torch.testing.assert_close(distances.double(), exact.gather(1, indices), rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("M", "P", "C", "k"),
    [
        (1, 600, 64, 1),  # one row
        (129, 257, 3, 1),  # just past whole tiles
        (40, 900, 131, 2),  # a slice of one column
        (130, 520, 600, 1),  # rows too long to stay in shared memory, two blocks that share copies
        (30, 3000, 40, 9),
        (5, 5000, 20, 64),  # the largest k, in many pieces
    ],
)
def test_odd_sizes(M, P, C, k, way):
    features, bank = banks.plain(M, P, C)
    (distances, indices), _ = nearest(features, bank, k, way=way)
    expected = reference(DistanceCall(features.double(), bank.double(), None, k, "euclidean"))
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(distances.double(), expected[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_dtype(dtype, way):
    features, bank = (t.to(dtype) for t in banks.plain())
    (distances, indices), left = nearest(features, bank, 4, way=way)
    (expected, best), _ = nearest(features, bank, 4)
    assert torch.equal(indices, best)
    torch.testing.assert_close(distances, expected)
    assert left["bfloat16"] == 0


def test_certificates_succeed_where_the_nearest_stand_out(way):
    features, bank = clusters(150, 900, 96)
    (_, indices), left = nearest(features, bank, 1, way=way)
    assert torch.equal(indices, nearest(features, bank, 1)[0][1])
    assert left == {"bfloat16": 0, "int8": 0}


def test_members_of_the_bank_are_certified(way):
    features, bank = banks.members()
    (distances, indices), left = nearest(features, bank, 1, way=way)
    assert torch.equal(indices[:, 0], torch.arange(0, banks.BANK, 10))
    assert not distances.any()
    assert left["bfloat16"] == 0


def test_features_far_from_the_bank_are_certified(screen):
    """As anomalies are: what quantization changes grows with their length, but moves all distances alike."""
    features, bank = banks.plain(60, 800, 48)
    features *= 30
    (_, indices), left = nearest(features, bank, 1, way=(screen, "bfloat16"))
    assert torch.equal(indices, reference(DistanceCall(features.double(), bank.double(), None, 1, "euclidean"))[1])
    assert left["bfloat16"] <= 3


def test_what_cannot_be_certified_goes_on(screen):
    """Some features tie with more prototypes than a row keeps; they, and no others, are measured against everything."""
    features, bank = clusters(200, 1200, 32)
    bank[::2] = bank[0]
    hard = torch.arange(3, 200, 50)
    features[hard] = bank[0] + 0.01
    expected = reference(DistanceCall(features.double(), bank.double(), None, 1, "euclidean"))[1]
    (_, indices), left = nearest(features, bank, 1, way=(screen, "both"))
    easy = expected[:, 0] % 2 == 1
    assert torch.equal(indices[easy], expected[easy])
    assert not indices[~easy].any()  # Of equal distances the lowest index wins.
    assert left["bfloat16"] == left["int8"] == int((~easy).sum())


def test_int8_leaves_to_bfloat16_what_it_cannot_tell(screen):
    """A hundred prototypes around each feature, nearer to one another than bytes can tell, and bfloat16 can."""
    g = banks.generator()
    bank = torch.randn(6, 64, generator=g).repeat_interleave(100, 0) + 0.01 * torch.randn(600, 64, generator=g)
    features = bank[torch.randint(0, 600, (60,), generator=g)] + 0.005 * torch.randn(60, 64, generator=g)
    (_, indices), left = nearest(features, bank, 1, way=(screen, "both"))
    assert torch.equal(indices, reference(DistanceCall(features.double(), bank.double(), None, 1, "euclidean"))[1])
    assert left["int8"] > 0
    assert left["bfloat16"] < left["int8"]


def test_unusual_prototypes_do_not_spoil_the_bounds(way):
    """A few huge ones are measured directly; with more of them than that, everything is."""
    features, bank = clusters(60, 700, 48)
    bank[::100] *= 1e4
    features[0] = bank[100] + 1
    expected = reference(DistanceCall(features.double(), bank.double(), None, 1, "euclidean"))[1]
    (_, indices), left = nearest(features, bank, 1, way=way)
    assert torch.equal(indices, expected)
    assert left["bfloat16"] <= 8  # features beside a huge prototype are as huge themselves
    bank[::7] = 1e19 * bank[::7].sign()
    (_, indices), left = nearest(features, bank, 1, way=way)
    assert torch.equal(indices, nearest(features, bank, 1)[0][1])
    assert left["bfloat16"] == 60


def packed_in_both(bank, metric):
    """A bank packed as one is that int8 serves."""
    return cuda._packed(bank.to(cuda_device()), metric, cuda.SCREENS.index("mma"), cuda.FORMATS["both"])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_packed_banks_give_the_same(metric, screen):
    features, bank = clusters(40, 1100, 256, spread=0.3)
    for formats, packed in (
        ("bfloat16", cuda.pack(bank.to(cuda_device()), metric)),
        ("both", packed_in_both(bank, metric)),
    ):
        plain, _ = nearest(features, bank, 2, metric, (screen, formats))
        again, left = nearest(features, bank, 2, metric, (screen, formats), packed)
        assert banks.same(plain, again)
        assert left["bfloat16"] == 0


def test_a_bank_that_another_backend_packed_is_ignored():
    features, bank = banks.plain()
    foreign = torch.zeros(100, dtype=torch.uint8)
    assert banks.same(nearest(features, bank, 2, packed=foreign)[0], nearest(features, bank, 2)[0])


def test_results_are_the_same_every_time(way):
    features, bank = banks.duplicates()
    first, _ = nearest(features, bank, 3, way=way)
    assert banks.same(nearest(features, bank, 3, way=way)[0], first)


@pytest.mark.skipif(not torch.cuda.is_available() or _cuda.EMULATED, reason="needs a GPU")
def test_a_screened_search_joins_a_cuda_graph(way):
    """How many features each pass leaves to the next stays on the device, and may differ in a replay."""
    features, bank = (t.cuda() for t in clusters(300, 2000, 96))
    call = DistanceCall(features, bank, None, 3, "euclidean")
    cuda.screened_search(call, *way)  # what is loaded once must not be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        distances, indices, _ = cuda.screened_search(call, *way)
    bank[::2] = bank[0].clone()  # ties, which cannot be certified
    features.copy_(features.flip(0))
    graph.replay()
    expected = cuda.screened_search(call, *way)
    assert torch.equal(distances, expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("many", ["features", "prototypes"])
def test_more_rows_than_an_int32_counts_are_refused_in_words(many):
    rows = {"features": 1, "prototypes": 1, many: 2**31}
    images = (torch.empty(rows[name], 1, device="meta") for name in ("features", "prototypes"))
    refusal = _cuda_why_not(DistanceCall(*images, None, 1, "euclidean"))
    assert refusal == f"takes fewer than 2^31 {many}, got 2147483648; call it on parts of them"


def test_the_choice_follows_the_shape():
    cuda_device()
    none, mma, wgmma = 0, 1, 2
    way, formats = _cuda.prototype_distance_choice((25_088, 16_384, 128, 1), False)
    assert way in (mma, wgmma)
    assert formats == [True, False]
    assert _cuda.prototype_distance_choice((25_088, 16_384, 512, 1), False) == (way, [True, True])
    assert _cuda.prototype_distance_choice((25_088, 16_384, 512, 3), False) == (way, [True, False])
    assert _cuda.prototype_distance_choice((25_088, 8_192, 512, 1), False) == (way, [True, False])
    assert _cuda.prototype_distance_choice((25_088, 16_384, 1536, 1), True) == (way, [True, False])
    assert _cuda.prototype_distance_choice((25_088, 100, 512, 64), False)[0] == none
    assert _cuda.prototype_distance_choice((40, 16_384, 512, 1), False)[0] == none
    assert _cuda.prototype_distance_choice((40, 16_384, 512, 1), True)[0] == way
