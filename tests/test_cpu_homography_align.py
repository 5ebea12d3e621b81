"""What the CPU kernel for translations by integers promises: the result of any other call, and its gradients."""

import pytest
import torch

from tests.test_homography_align import assert_within_twice_plain_torch, errors, features
from tests.test_ops import LAYOUTS, run, within_budget
from vsad.ops import homography_align

_cpu = pytest.importorskip("vsad._cpu", reason="needs the compiled CPU kernels")
from vsad.ops.homography_align import cpu as kernels  # noqa: E402
from vsad.ops.homography_align.call import AlignCall  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = ("query", "key", "value", "homography", "bias")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def translations(*batch, g, reach=3):
    """Some of them leave the source."""
    H = torch.eye(3).repeat(*batch, 1, 1)
    H[..., :2, 2] = torch.randint(-reach, reach + 1, (*batch, 2), generator=g).float()
    return H


def inputs(dtype, window=3, size=(9, 19), source=(11, 14), C=22, Cv=6):
    g = torch.Generator().manual_seed(0)
    tensors = {
        "query": torch.randn(1, 2, C, *size, generator=g).to(dtype),
        "key": torch.randn(1, 3, C, *source, generator=g).to(dtype),
        "value": torch.randn(1, 3, Cv, *source, generator=g).to(dtype),
        "homography": translations(1, 2, 3, g=g),
        "bias": torch.randn(1, 3, window, window, generator=g),
    }
    return tensors, {"neighbors": torch.tensor([[2, -1, 0], [1, 2, 2]]), "window": window}


def call_of(H, size=(40, 33), window=3):
    image = torch.zeros(1, 1, 2, *size, dtype=H.dtype)
    return AlignCall(image, image, image, H[None, None, None], torch.zeros(1, 1).long(), None, 1, window, 1.0, False)


def is_translation(call):
    return _cpu.homography_align_translates(kernels._arguments(call, call.query, *kernels.empty_sums(call)))


def compare(tensors, options, dtype, layout, differentiable):
    """Within the budget of the matrix of test_ops.py."""
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {n: t.to(dtype if n in ALL[:3] else wide) for n, t in tensors.items()}
    placed = {n: LAYOUTS[layout](t) if n in ALL[:3] else t for n, t in tensors.items()}
    options = {**options, "return_lse": True}

    def results(tensors, backend):
        return run(lambda **t: homography_align(**t, backend=backend), tensors, options, differentiable)[1:]

    exact, exact_grads = results({n: t.double() for n, t in tensors.items()}, "torch")
    (plain, plain_grads), (got, grads) = results(placed, "torch"), results(placed, "cpu")
    for name, *values in zip(("out", "lse"), got, exact, plain):
        within_budget(name, *values, dtype)
    for name in differentiable:
        within_budget(name, grads[name], exact_grads[name], plain_grads[name], dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("window", "layout"), [(1, "dense"), (3, "channels last"), (3, "strided"), (5, "channels last"), (7, "dense")]
)
def test_translations_match_the_reference(isa, dtype, window, layout):
    compare(*inputs(dtype, window), dtype, layout, ALL)


SIZES = {
    "one pixel": {"size": (1, 1), "source": (1, 1)},
    "one column": {"size": (37, 1), "source": (36, 2)},
    "many tiles": {"size": (18, 67), "source": (17, 70), "C": 6},
    "no channels of value": {"Cv": 0},
    "wide": {"size": (3, 9), "C": 60, "Cv": 20},
}


@pytest.mark.parametrize("name", SIZES)
def test_translations_of_any_size(isa, name):
    compare(*inputs(torch.float32, 5, **SIZES[name]), torch.float32, "channels last", ALL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_go_where_the_reference_sends_them(isa, layout):
    """Taps of weight zero beside a cell included, the border pixel itself where they repeat it; beyond, nowhere."""
    tensors, options = inputs(torch.float32, 5)
    nan, inf = float("nan"), float("inf")
    tensors["query"][:, 0, :, 4, 5] = nan
    tensors["key"][:, 0, :, 3, 4], tensors["key"][:, 2, 0, 5, -1], tensors["key"][:, 1, :, 7, 7] = nan, inf, -inf
    tensors["key"][:, 2, 1, -1, 3] = -inf
    tensors["value"][:, 2, :, 0, 0], tensors["value"][:, 1, :, -1, -1] = inf, nan
    tensors["homography"][:, 0, 0, 0, 2] = 12  # most pixels see no source there, the NaN of a border pixel included
    compare(tensors, options, torch.float32, layout, ())


def test_memory_of_references_matches_the_reference():
    """The call of AlignedMemory: five views, references as source views, one channel of value, which is key's first."""
    g = torch.Generator().manual_seed(0)
    query, key = (0.5 * torch.randn(2, n, 16, 16, 19, generator=g).movedim(-1, 2) for n in (1, 8))
    tensors = {"query": query, "key": key, "value": key[:, :, :1], "homography": torch.eye(3).repeat(1, 1, 8, 1, 1)}
    options = {"neighbors": torch.arange(8)[None], "window": 5, "scale": 4.0}
    compare(tensors, options, torch.float32, "channels last", ALL[:4])


@pytest.mark.parametrize("dtype", FLOATS[:2], ids=lambda dtype: str(dtype)[6:])
def test_what_is_a_translation(isa, dtype):
    """Every pixel must land on one, in the arithmetic of the coordinates; else interpolation decides."""
    shift = torch.tensor([[1.0, 0, -7], [0, 1, 5], [0, 0, 1]], dtype=dtype)
    for H in (torch.eye(3, dtype=dtype), shift, 4 * shift, shift * torch.tensor(0.5, dtype=dtype)):
        assert is_translation(call_of(H))
    for row, col, value in ((0, 0, 1 + 1e-6), (0, 1, 1e-9), (0, 2, 0.5), (1, 1, -1), (2, 0, 1e-9), (2, 2, -1)):
        H = shift.clone()
        H[row, col] = value
        assert not is_translation(call_of(H))
        H[row, col] = float("nan")
        assert not is_translation(call_of(H))
    assert not is_translation(call_of(-shift))
    assert not is_translation(call_of(0 * shift))
    assert not is_translation(call_of(shift, window=9))
    assert not is_translation(call_of(shift)._replace(heads=2))
    wide = torch.zeros(1, 1, 41, 40, 33, dtype=dtype)
    assert not is_translation(call_of(shift)._replace(query=wide, key=wide, value=wide))


def test_one_slot_that_is_no_translation_sends_the_call_the_usual_way():
    call = call_of(torch.eye(3))
    two = torch.eye(3).repeat(1, 1, 2, 1, 1)
    two[..., 1, 0, 2] = 0.5
    for neighbors, expected in (([[0, 0]], False), ([[0, -1]], True), ([[-1, 0]], False), ([[-1, -1]], True)):
        assert is_translation(call._replace(homography=two, neighbors=torch.tensor(neighbors))) == expected


def test_translations_do_not_depend_on_the_number_of_threads(threads):
    tensors, options = inputs(torch.float32, 5, size=(70, 80), source=(70, 80))
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(homography_align(**tensors, **options, return_lse=True, backend="cpu"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("mean", [10, 1000])
def test_gradients_of_large_features_under_translations(dtype, mean):
    """The backward's logits are not the translation's, bit for bit: it makes softmax and out of its own."""
    draws = []
    for seed in range(3):
        tensors, options = features(mean, dtype, "narrow", "cpu", seed)
        tensors["homography"] = translations(1, 1, 2, g=torch.Generator().manual_seed(seed), reach=1)
        tensors["bias"], options["heads"] = tensors["bias"][:1], 1
        draws.append(errors(tensors, options, "cpu", both=True))
    assert_within_twice_plain_torch(draws)


def test_the_only_cell_of_a_translation_has_all_the_weight(isa):
    tensors, options = inputs(torch.float32, window=1)
    tensors = {n: t + 1000 if n in ("query", "key") else t for n, t in tensors.items()}
    tensors |= {"homography": tensors["homography"][:, :, :1], "bias": tensors["bias"][:, :1]}
    options["neighbors"] = options["neighbors"][:, :1]
    _, _, grads = run(lambda **t: homography_align(**t, backend="cpu"), tensors, options, ALL)
    assert [grads[n].abs().max().item() for n in ("query", "key", "bias")] == [0, 0, 0]
    assert grads["value"].abs().max() > 0
