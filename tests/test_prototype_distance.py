"""What screening must never change: hard banks against brute force, every instruction set and way bit for bit."""

import copy
import pickle
from functools import partial

import pytest
import torch

from vsad.ops import PackedPrototypes, pack_prototypes, prototype_distance
from vsad.ops.prototype_distance.reference import all_distances

try:
    from vsad import _cpu
except ImportError:  # Other tests take their banks from here.
    _cpu = None
pytestmark = pytest.mark.skipif(_cpu is None, reason="needs the compiled CPU kernels")
METRICS = ["euclidean", "sqeuclidean", "cosine"]
ROWS, BANK, CHANNELS = 70, 700, 72


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(M=ROWS, P=BANK, C=CHANNELS):
    g = generator()
    return torch.randn(M, C, generator=g), torch.randn(P, C, generator=g)


def duplicates():
    features, bank = plain()
    return features, bank[torch.arange(BANK) % 9]


def all_equal():
    features, bank = plain()
    return features, bank[:1].expand(BANK, -1)


def near_ties():
    """Every prototype is one unit in the last place or so from the next."""
    features, bank = plain()
    return features, bank[:1] + 1e-7 * torch.randn(BANK, CHANNELS, generator=generator(1))


def huge_norm():
    features, bank = plain()
    bank[7] *= 1e6
    bank[8] *= 3e18
    features[3] *= 1e5
    return features, bank


def tiny():
    return tuple(1e-17 * t for t in plain())


def underflow():
    return tuple(1e-25 * t for t in plain())


def offset():
    return tuple(t + 1e4 for t in plain())


def one_channel():
    """Rounded to bytes, a row of one large element says nothing about the others."""
    features, bank = plain()
    features[:, 0], bank[:, 0] = 1e4, -1e4
    return features, bank


def sphere():
    """All prototypes are equally far from the feature at the center."""
    features, bank = plain()
    bank = torch.nn.functional.normalize(bank)
    features[::2] = 0
    return features, bank


def members():
    """Every feature is in the bank."""
    _, bank = plain()
    return bank[::10].clone(), bank


def broken():
    features, bank = plain()
    features[4, 2], features[5], features[6] = float("nan"), float("inf"), 0
    bank[7, 0], bank[11, 5], bank[12], bank[500:540] = float("nan"), float("-inf"), 0, float("nan")
    return features, bank


def mostly_broken():
    features, bank = plain()
    bank[3:] = float("nan")
    bank[20:25] = float("inf")
    return features, bank


def integers():
    """Many exact ties between different prototypes."""
    g = generator()
    return torch.randint(-1, 2, (ROWS, 20), generator=g).float(), torch.randint(-1, 2, (BANK, 20), generator=g).float()


BANKS = [
    plain, duplicates, all_equal, near_ties, huge_norm, tiny, offset, one_channel, sphere, members, integers,
    underflow, broken, mostly_broken,
]  # fmt: skip


def same(a, b):
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in zip(a, b))


def a_few_at_a_time(features, bank, k, metric):
    """Few features without a packed bank are measured against every prototype."""
    rows = [prototype_distance(f, bank, k, metric=metric, backend="cpu") for f in features.split(13)]
    return tuple(torch.cat(parts) for parts in zip(*rows))


@pytest.mark.parametrize("k", [1, 3, 64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("make", BANKS, ids=lambda make: make.__name__)
def test_screened_packed_and_brute_force_agree_bit_for_bit(isa, make, metric, k):
    features, bank = make()
    call = partial(prototype_distance, k=k, metric=metric, backend="cpu")
    screened = call(features, bank)
    packed = pack_prototypes(bank, metric=metric)
    assert same(call(features, packed), screened)
    assert same(call(features[:5], packed), [t[:5] for t in screened])
    assert same(a_few_at_a_time(features, bank, k, metric), screened)
    _cpu.set_isa("baseline")
    assert same(call(features, bank), screened)
    assert same(call(features, packed), screened)


@pytest.mark.parametrize("make", BANKS[:-3], ids=lambda make: make.__name__)
@pytest.mark.parametrize("metric", METRICS)
def test_hard_banks_against_float64(isa, make, metric):
    """The prototypes found are as near as the nearest, up to the rounding of float32."""
    features, bank = make()
    k = 5
    distances, indices = prototype_distance(features, bank, k, metric=metric, backend="cpu")
    exact = all_distances(features.double(), bank.double(), metric)
    exact = exact.square() / 2 if metric == "cosine" else exact.square() if metric == "sqeuclidean" else exact
    nearest = exact.sort(stable=True).values[:, :k]
    rtol, atol = 1e-5, 1e-5 if metric == "cosine" else 1e-37
    torch.testing.assert_close(distances.double(), nearest, rtol=rtol, atol=atol)
    torch.testing.assert_close(exact.gather(1, indices), nearest, rtol=rtol, atol=atol)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype_is_screened_alike(isa, dtype):
    features, bank = (t.to(dtype) for t in plain())
    screened = prototype_distance(features, bank, 4, backend="cpu")
    assert same(a_few_at_a_time(features, bank, 4, "euclidean"), screened)
    assert same(prototype_distance(features, pack_prototypes(bank), 4, backend="cpu"), screened)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("M", "P", "C", "k"), [(33, 3000, 64, 2), (1, 2000, 16, 1), (400, 300, 7, 9), (97, 1111, 300, 1)]
)
def test_packed_results_do_not_depend_on_the_number_of_threads(isa, threads, M, P, C, k):
    features, bank = plain(M, P, C)
    packed = pack_prototypes(bank)
    expected = prototype_distance(features, packed, k, backend="cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(prototype_distance(features, packed, k, backend="cpu"), expected)
        assert same(prototype_distance(features, pack_prototypes(bank), k, backend="cpu"), expected)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(expected.indices[:3], prototype_distance(features[:3], bank, k, backend="torch").indices)


def test_strides_do_not_matter(isa):
    features, bank = plain()
    wide = torch.full((2 * BANK, 2 * CHANNELS), float("nan"))
    wide[::2, ::2] = bank
    expected = prototype_distance(features, bank, 2)
    assert same(prototype_distance(features.T.contiguous().T, wide[::2, ::2], 2), expected)
    assert same(prototype_distance(features.T.contiguous().T, pack_prototypes(wide[::2, ::2]), 2), expected)


@pytest.mark.parametrize("copies", ["pickle", "deepcopy", "torch.save"])
@pytest.mark.parametrize("metric", METRICS)
def test_packed_banks_can_be_saved(tmp_path, copies, metric):
    features, bank = plain()
    packed = pack_prototypes(bank, metric=metric)
    if copies == "pickle":
        again = pickle.loads(pickle.dumps(packed))
    elif copies == "deepcopy":
        again = copy.deepcopy(packed)
    else:
        torch.save(packed, tmp_path / "bank.pt")
        again = torch.load(tmp_path / "bank.pt")
    assert isinstance(again, PackedPrototypes)
    assert again.metric == metric
    assert same(
        prototype_distance(features, again, 3, metric=metric), prototype_distance(features, bank, 3, metric=metric)
    )


def test_a_packed_bank_describes_itself_and_stays_what_it_was():
    features, bank = plain()
    packed = pack_prototypes(bank)
    assert (packed.shape, packed.dtype, packed.device, len(packed)) == (bank.shape, bank.dtype, bank.device, BANK)
    assert repr(packed) == "PackedPrototypes(700 x 72, torch.float32, cpu, metric='euclidean')"
    expected = prototype_distance(features, bank)
    bank.zero_()
    assert same(prototype_distance(features, packed), expected)
    assert same(prototype_distance(features, packed, backend="torch").indices[None], expected.indices[None])


def test_a_packed_bank_gives_gradients_to_features_only():
    features, bank = plain()
    leaves = [t.requires_grad_() for t in (features, bank)]
    (expected,) = torch.autograd.grad(prototype_distance(*leaves, 2).distances.sum(), features)
    loss = prototype_distance(features, pack_prototypes(bank), 2).distances.sum()
    (got,) = torch.autograd.grad(loss, features)
    assert torch.equal(got, expected)


def test_packed_banks_compile_and_pass_opcheck():
    features, bank = plain(20, 200, 16)
    packed = pack_prototypes(bank)

    @partial(torch.compile, fullgraph=True, backend="aot_eager")
    def compiled(f):
        return prototype_distance(f, packed, 2)

    assert same(compiled(features), prototype_distance(features, packed, 2))
    arguments = (features, bank, packed.packed, 2, "euclidean", "cpu")
    torch.library.opcheck(torch.ops.vsad.prototype_distance_fwd.default, arguments)


@pytest.mark.parametrize("of_features", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_bank", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_float32_packed_or_not(of_features, of_bank):
    features, bank = (t.to(dtype) for t, dtype in zip(plain(), (of_features, of_bank)))
    expected = prototype_distance(features.float(), bank.float(), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(prototype_distance(features, bank, 3), expected)
        assert same(prototype_distance(features, pack_prototypes(bank), 3), expected)
    assert expected.distances.dtype == torch.float32


@pytest.mark.parametrize(("metric", "other"), [("cosine", "euclidean"), ("euclidean", "cosine")])
def test_another_metric_is_refused(metric, other):
    features, bank = plain()
    with pytest.raises(ValueError, match=rf"packed for, '{metric}', got '{other}'; make one with pack_prototypes"):
        prototype_distance(features, pack_prototypes(bank, metric=metric), metric=other)


@pytest.mark.parametrize(
    ("bank", "options", "message"),
    [
        (torch.ones(3), {}, r"pack_prototypes: prototypes must be \[P C\], got \[3\]"),
        (torch.ones(3, 2).long(), {}, "pack_prototypes: prototypes must be floating point"),
        (torch.ones(0, 2), {}, "pack_prototypes: prototypes must hold at least one row"),
        (torch.ones(3, 2), {"metric": "manhattan"}, "pack_prototypes: metric must be one of"),
    ],
)
def test_errors_teach(bank, options, message):
    with pytest.raises(ValueError, match=message):
        pack_prototypes(bank, **options)


def test_dtypes_must_agree():
    with pytest.raises(ValueError, match=r"prototypes must have the dtype of features, torch\.float16"):
        prototype_distance(torch.ones(3, 5).half(), pack_prototypes(torch.ones(4, 5)))
