"""Calls that go straight to the launch of one like them: what they give, what they keep, and who is let through."""

import copy
import gc
import subprocess
import sys
import weakref

import pytest
import torch

import vsad.ops
from vsad.ops.common import launches
from vsad.ops.homography_align.registration import LAUNCHES as ALIGN
from vsad.ops.homography_warp.registration import LAUNCHES as WARP
from vsad.ops.prototype_distance.registration import LAUNCHES as DISTANCE

pytestmark = pytest.mark.skipif(launches._find is None, reason="needs compiled kernels and torch 2.10")

EYE = torch.eye(3)
SHIFT = torch.tensor([[1.0, 0.0, -1.5], [0.0, 1.0, 0.25], [0.0, 0.0, 1.0]])


def features(seed, layout="channels last"):
    pixels = torch.randn(1, 2, 6, 7, 8, generator=torch.Generator().manual_seed(seed))
    feature = pixels.movedim(-1, 2)
    return feature.contiguous() if layout == "planes" else feature


def align(seed=0, layout="channels last", **options):
    query, key, value = (features(3 * seed + i, layout) for i in range(3))
    homography = torch.stack([SHIFT, SHIFT.inverse()])[:, None].to(options.pop("homography_dtype", torch.float32))
    return vsad.ops.homography_align(query, key, value, homography, **options)


def warp(seed=0, **options):
    image = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(seed))
    return vsad.ops.homography_warp(image, SHIFT + seed * 0.01, **options)


def distance(seed=0, shape=(2, 3), k=2, **options):
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    return vsad.ops.prototype_distance(rows[:6].reshape(*shape, 4), rows[6:], k, **options)


BIAS = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5))
CALLS = {
    "align": (align, {"heads": 2, "neighbors": torch.tensor([[1], [0]])}, ALIGN),
    "align, default neighbors": (align, {}, ALIGN),
    "align, lse": (align, {"return_lse": True, "window": 5, "scale": 0.5}, ALIGN),
    "align, bias": (align, {"heads": 2, "bias": BIAS}, ALIGN),
    "align, bias of two slots": (align, {"neighbors": torch.tensor([[1], [0]]), "bias": BIAS[:1].double()}, ALIGN),
    "align, planes": (align, {"layout": "planes"}, ALIGN),
    "align, float64 homography": (align, {"homography_dtype": torch.float64}, ALIGN),
    "warp": (warp, {}, WARP),
    "warp, mask and size": (warp, {"return_mask": True, "size": (3, 4), "mode": "bicubic"}, WARP),
    "distance": (distance, {}, DISTANCE),
    "distance, cosine": (distance, {"metric": "cosine", "k": 1, "shape": (6,)}, DISTANCE),
}


def parts_of(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize(("call", "options", "known"), CALLS.values(), ids=CALLS)
def test_a_call_gives_the_same_whether_its_like_is_known_or_not(call, options, known):
    fresh = []
    for seed in range(3):
        known.forget()
        fresh.append(parts_of(call(seed, **options)))
    known.forget()
    for seed, expected in enumerate(fresh):
        got = parts_of(call(seed, **options))
        assert len(known) == 1
        for a, b in zip(got, expected, strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
            assert torch.equal(a, b)


@pytest.mark.parametrize(("call", "options", "known"), CALLS.values(), ids=CALLS)
def test_results_are_nobody_elses(call, options, known):
    first, second = parts_of(call(0, **options)), parts_of(call(0, **options))
    assert not {t.data_ptr() for t in first} & {t.data_ptr() for t in second}


@pytest.mark.parametrize("name", ["align", "warp", "distance"])
def test_a_launch_keeps_no_tensor(name):
    image = torch.randn(1, 2, 6, 7, 8).movedim(-1, 2)
    given = {
        "align": lambda: (
            vsad.ops.homography_align,
            image.clone(),
            image.clone(),
            image.clone(),
            EYE.expand(2, 1, 3, 3),
        ),
        "warp": lambda: (vsad.ops.homography_warp, torch.randn(2, 5, 6, 7), EYE.clone()),
        "distance": lambda: (vsad.ops.prototype_distance, torch.randn(6, 4), torch.randn(9, 4)),
    }
    for _ in range(2):
        operator, *tensors = given[name]()
        refs = [weakref.ref(t) for t in (*tensors, *parts_of(operator(*tensors)))]
        del tensors
        gc.collect()
        assert [ref() for ref in refs] == [None] * len(refs)


WRONG = {
    "a flag for a number": lambda: align(window=True),
    "a float for heads": lambda: align(heads=1.0),
    "a number for a flag": lambda: align(return_lse=0),
    "a number for deterministic": lambda: align(deterministic=0),
    "a string for the scale": lambda: align(scale="0.5"),
    "a flag for k": lambda: distance(k=True),
    "a float for k": lambda: distance(k=1.0),
    "a float in size": lambda: warp(size=(6.0, 7)),
    "a neighbor that is not there": lambda: align(neighbors=torch.tensor([[1], [2]])),
    "a number for a mask": lambda: warp(return_mask=0),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_refused_once_is_refused_again_beside_calls_that_are_known(wrong):
    align(window=1), align(heads=1), align(return_lse=False), align(deterministic=False), align(scale=0.5)
    distance(k=1), warp(size=(6, 7)), align(neighbors=torch.tensor([[1], [0]])), warp(return_mask=False)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError)):
            wrong()


def test_gradients_are_recorded_after_calls_without_any():
    image = torch.randn(2, 5, 6, 7)
    vsad.ops.homography_warp(image, EYE)
    parameter = torch.nn.Parameter(image.clone())
    with torch.no_grad():
        assert not vsad.ops.homography_warp(parameter, EYE).requires_grad
    out = vsad.ops.homography_warp(parameter, EYE)
    out.sum().backward()
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_autocast_casts_what_was_known_without_it():
    without = align()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert align().dtype == torch.bfloat16
    assert torch.equal(align(), without)


def test_a_preferred_backend_is_taken_and_left_again():
    cpu = warp()
    with vsad.ops.using("torch"):
        first, second = warp(), warp()
    assert torch.equal(first, second)
    assert torch.equal(warp(), cpu)
    assert len(WARP) == 1


def test_watchers_see_the_operator_of_a_call_that_is_known():
    warp()
    with torch.profiler.profile() as profile:
        warp()
    assert any("homography_warp_fwd" in event.key for event in profile.key_averages())
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.randn(2, 5, 6, 7), static_shapes=True)
        assert type(vsad.ops.homography_warp(fake, mode.from_tensor(SHIFT))) is type(fake)
    image = torch.randn(3, 2, 5, 6, 7)
    one_by_one = torch.stack([vsad.ops.homography_warp(i, SHIFT) for i in image])
    together = torch.func.vmap(lambda i: vsad.ops.homography_warp(i, SHIFT))(image)
    torch.testing.assert_close(together, one_by_one)


def test_memory_that_cannot_be_read_is_refused_beside_memory_that_can():
    image = torch.randn(2, 5, 6, 7)
    vsad.ops.homography_warp(image, SHIFT)
    freed = image.clone()
    freed.untyped_storage().resize_(0)
    for _ in range(2):
        with pytest.raises(ValueError, match="freed"):
            vsad.ops.homography_warp(freed, SHIFT)
    beside = torch.empty(4 * image.numel() + 1, dtype=torch.uint8)[1:].view(torch.uint8)
    unaligned = torch.frombuffer(memoryview(beside.numpy()), dtype=torch.float32).view_as(image)
    for _ in range(2):
        with pytest.raises(ValueError, match="not aligned"):
            vsad.ops.homography_warp(unaligned, SHIFT)


def test_a_tensor_that_is_negated_lazily_is_negated():
    conjugate = torch.randn(2, 5, 6, 7, dtype=torch.complex64).conj()
    lazy, plain = conjugate.imag, conjugate.imag.resolve_neg()
    assert lazy.is_neg()
    kept = torch.empty_strided(lazy.shape, lazy.stride()).copy_(plain)
    expected = vsad.ops.homography_warp(kept, SHIFT)
    assert torch.equal(vsad.ops.homography_warp(lazy, SHIFT), expected)


def test_a_packed_bank_that_was_changed_is_not_read():
    rows = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    bank = vsad.ops.pack_prototypes(rows)
    for _ in range(2):
        assert vsad.ops.prototype_distance(rows[7:9], bank).indices.flatten().tolist() == [7, 8]
    bank.prototypes.copy_(bank.prototypes.flip(0).clone())
    for _ in range(2):
        assert vsad.ops.prototype_distance(rows[7:9], bank).indices.flatten().tolist() == [492, 491]
    with pytest.raises(ValueError, match="metric"):
        vsad.ops.prototype_distance(rows[7:9], copy.deepcopy(bank), metric="cosine")


def test_threads_are_those_of_now(monkeypatch):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(align())
    finally:
        torch.set_num_threads(before)
    assert len(ALIGN) == 2
    assert all(torch.equal(result, results[0]) for result in results)


def test_few_signatures_are_kept(monkeypatch):
    monkeypatch.setattr(launches, "MOST", 3)
    for height in range(1, 8):
        warp(size=(height, 4))
        assert 1 <= len(WARP) <= 3


def test_what_is_not_known_has_no_signature():
    for argument in (object(), {"a": 1}, 2**70, [[object()]], torch.eye(2).to_sparse(), torch.empty(2, device="meta")):
        assert launches.signature(EYE, argument) is None
    assert launches.signature(EYE, 1) is not None


def test_signatures_tell_apart_what_kernels_tell_apart():
    image = torch.randn(2, 8, 6, 7)
    others = [
        image.to(torch.float16), image.to(torch.bfloat16), image.to(torch.int32), image[:1], image[:, ::2],
        image.contiguous(memory_format=torch.channels_last), image.mT, image.reshape(2, 8, 7, 6), image[0],
        None, 1, True, 1.0, "1", (1,), [1], (1, 2), ((1,), 2), torch.empty(2, 8 * 6 * 7 + 1)[:, 1:].view(2, 8, 6, 7),
    ]  # fmt: skip
    keys = [launches.signature(t) for t in (image, *others)]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert launches.signature(image.clone()) == keys[0]


def test_a_torch_without_an_exchange_launches_anew_each_time():
    """Torch before 2.10, and one whose exchange is of another version: nothing is remembered, and all is right."""
    code = (
        "import torch\n"
        "del torch.Tensor.__dlpack_c_exchange_api__\n"
        "import vsad.ops\n"
        "from vsad.ops.common import launches\n"
        "assert launches.signature(torch.eye(3)) is None\n"
        "image, rows = torch.randn(1, 2, 4, 6, 7), torch.randn(30, 4)\n"
        "homography = torch.eye(3).expand(2, 1, 3, 3)\n"
        "def all(backend):\n"
        "    yield vsad.ops.homography_warp(image[0], homography[0], backend=backend)\n"
        "    yield vsad.ops.homography_align(image, image, image, homography, backend=backend)\n"
        "    yield vsad.ops.prototype_distance(rows[:5], rows, backend=backend).distances\n"
        "for ours, reference in zip(all('cpu'), all('torch'), strict=True):\n"
        "    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)\n"
        "print('right')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr
