"""A packed bank as a module among modules: it moves, is saved and loaded, and cannot be told what is not so."""

import io

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel

from tests.small_calls import device_of, each_kernel
from tests.test_prototype_distance import BANK, plain, same
from vsad.ops import PackedPrototypes, pack_prototypes, prototype_distance


class Search(nn.Module):
    """A module that holds a bank."""

    def __init__(self, prototypes):
        super().__init__()
        self.bank = pack_prototypes(prototypes)

    def forward(self, features):
        return prototype_distance(features, self.bank, 3)


@pytest.mark.parametrize("assign", [False, True])
def test_a_bank_travels_in_a_state_dict(assign):
    features, bank = plain()
    file = io.BytesIO()
    torch.save(Search(bank).state_dict(), file)
    file.seek(0)
    loaded = Search(torch.ones(BANK, features.shape[1]))
    state = torch.load(file, weights_only=True)
    assert list(state) == ["bank.prototypes"]
    loaded.load_state_dict(state, assign=assign)
    assert same(loaded(features), prototype_distance(features, bank, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_bank_is_cast_and_moved_with_its_module(dtype):
    features, bank = plain()
    model = Search(bank).to(dtype)
    assert (model.bank.dtype, model.bank.packed.dtype) == (dtype, torch.uint8)
    assert same(model(features.to(dtype)), prototype_distance(features.to(dtype), bank.to(dtype), 3))
    packed = model.bank.packed
    assert model.to("cpu").bank.packed is packed  # nothing changed: nothing is packed anew
    model.share_memory()  # moves the tensors that are there
    assert model.bank._current() is model.bank.packed is not None
    meta = model.to("meta")
    assert (meta.bank.device.type, meta.bank.packed) == ("meta", None)


def replaced(model, bank):
    model.bank.prototypes = bank


def averaged(model, bank):
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    average.update_parameters(Search(bank))
    model.bank = average.module.bank


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        averaged,
        lambda model, bank: model.bank.prototypes.copy_(bank),
        lambda model, bank: setattr(model.bank.prototypes, "data", bank),
        lambda model, bank: model.load_state_dict({"bank.prototypes": bank}),
    ],
)
def test_packed_bytes_of_other_prototypes_are_not_read(change):
    features, bank = plain()
    model, other = Search(bank), 5 * bank.flip(0) + 1
    expected = prototype_distance(features, other, 3)
    assert same(torch.func.functional_call(model, {"bank.prototypes": other}, (features,)), expected)
    assert model.bank._current() is model.bank.packed
    change(model, other)
    now = model.bank.prototypes
    assert (change is averaged) != torch.equal(now, other)
    assert same(model(features), prototype_distance(features, now, 3))


def test_packing_inside_a_compiled_function():
    features, bank = plain()
    search = torch.compile(lambda f, p: prototype_distance(f, pack_prototypes(p), 3), fullgraph=True, backend="eager")
    assert same(search(features, bank), prototype_distance(features, bank, 3))


def test_a_bank_by_hand_packs_itself():
    features, bank = plain()
    assert same(prototype_distance(features, PackedPrototypes(bank), 3), prototype_distance(features, bank, 3))
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments"):
        PackedPrototypes(bank, "euclidean", torch.zeros(8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="metric must be one of"):
        PackedPrototypes(bank, "manhattan")


@pytest.mark.parametrize("wrong", [lambda t: t[:-1], lambda t: t.view(torch.int8), lambda t: t[None]])
def test_what_was_not_packed_of_the_bank_is_refused(wrong):
    features, bank = plain()
    packed = pack_prototypes(bank)
    packed.packed = wrong(packed.packed)
    with pytest.raises(ValueError, match=r"packed must be .* pack the prototypes anew with pack_prototypes"):
        prototype_distance(features, packed)


@pytest.mark.parametrize("offset", [1, 4, 16, 32])
def test_packed_bytes_may_lie_anywhere(offset):
    features, bank = plain()
    packed = pack_prototypes(bank)
    expected = prototype_distance(features, packed, 3)
    buffer = torch.empty(packed.packed.numel() + 64, dtype=torch.uint8)
    packed.packed = buffer[offset:][: packed.packed.numel()].copy_(packed.packed)
    assert same(prototype_distance(features, packed, 3), expected)


def test_packing_under_fake_tensors_and_other_default_devices():
    features, bank = plain()
    expected = prototype_distance(features, bank, 3)
    with FakeTensorMode() as mode:
        fake = pack_prototypes(mode.from_tensor(bank))
        near = prototype_distance(mode.from_tensor(features), fake, 3)
    assert fake.packed.shape == pack_prototypes(bank).packed.shape
    assert near.indices.shape == expected.indices.shape
    file = io.BytesIO()
    torch.save(pack_prototypes(bank), file)
    file.seek(0)
    with torch.device("meta"):
        assert same(prototype_distance(features, pack_prototypes(bank), 3), expected)
        loaded = torch.load(file, map_location="cpu")
    assert same(prototype_distance(features, loaded, 3), expected)


@each_kernel
@pytest.mark.parametrize(("size", "is_packed"), [((2000, 128), True), ((200, 0), False)])
def test_packing_passes_opcheck(operator, backend, size, is_packed):
    if operator.name != "prototype_distance":
        pytest.skip("packs nothing")
    bank = torch.randn(size, device=device_of(operator, backend))
    for metric in ("euclidean", "cosine"):
        torch.library.opcheck(torch.ops.vsad.pack_prototypes.default, (bank, metric, backend))
        packed = torch.ops.vsad.pack_prototypes(bank, metric, backend)
        assert (len(packed) > 0) == (is_packed and backend != "triton")
