"""Every operator beside the rest of torch: autocast, default devices, memory that was freed, files."""

import copy
import io

import pytest
import torch

import vsad.ops
from tests.small_calls import assert_close, device_of, each_kernel, each_row, outputs, small_call
from vsad.ops.common.registry import REFERENCE


@each_row
def test_autocast_changes_alignment_only(operator, backend):
    if backend != REFERENCE and torch.bfloat16 not in operator.backend(backend).dtypes:
        pytest.skip("takes no bfloat16 here")
    leaves, options = small_call(operator, backend)
    expected = outputs(operator, backend, options)(leaves)
    with torch.autocast(device_of(operator, backend), dtype=torch.bfloat16):
        found = outputs(operator, backend, options)(leaves)
    if operator.name == "homography_align":
        halves = {n: t.bfloat16() if n in ("query", "key", "value") else t for n, t in leaves.items()}
        expected = outputs(operator, backend, options)(halves)
        assert found[0].dtype == torch.bfloat16
    assert_close(found, expected, 0)


@each_row
def test_another_default_device_changes_nothing(operator, backend):
    leaves, options = small_call(operator, backend)

    def results():
        value = outputs(operator, backend, options)(leaves)
        total = sum(t.sum() for t in value if t.requires_grad)
        return value, torch.autograd.grad(total, list(leaves.values()), allow_unused=True) if leaves else ()

    expected = results()
    with torch.device("meta"):
        found = results()
    assert_close(found, expected, 0)


@each_kernel
def test_memory_that_is_not_there_is_not_read(operator, backend):
    leaves, options = small_call(operator, backend)
    named = {**leaves, **{n: t for n, t in options.items() if isinstance(t, torch.Tensor)}}
    for name in named:
        gone = {n: t.detach().clone() for n, t in named.items()}
        gone[name].untyped_storage().resize_(0)
        with pytest.raises(
            (ValueError, RuntimeError), match=r"has no memory|not allocated|unallocated|out of bounds for storage"
        ):
            outputs(operator, backend, {**options, **gone})({})


@each_kernel
def test_registered_operators_check_what_they_are_given(operator, backend):
    """Their schemas can be called directly, and exported programs with other sizes."""
    leaves, options = small_call(operator, backend)
    forward = getattr(torch.ops.vsad, f"{operator.name}_fwd").default
    seen = []
    original = operator.choose

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(operator), "choose", lambda self, call, b: seen.append(call) or original(call, b))
        outputs(operator, backend, options)({n: t.detach() for n, t in leaves.items()})
    call = seen[0]
    forward(*call, backend)
    for name, value in zip(call._fields, call):
        if not isinstance(value, torch.Tensor):
            continue
        alone = sum(isinstance(t, torch.Tensor) for t in call) == 1
        for other in (value[None], value.to(torch.int32), *([] if alone else [value.to("meta")])):
            with pytest.raises((ValueError, TypeError, RuntimeError, NotImplementedError)) as raised:
                forward(*call._replace(**{name: other}), backend)
            assert operator.name in str(raised.value)


@each_kernel
def test_saved_indices_that_name_nothing_are_not_followed(operator, backend):
    if operator.name != "prototype_distance":
        pytest.skip("saves no indices")
    device = device_of(operator, backend)
    backward = torch.ops.vsad.prototype_distance_bwd
    features, bank = torch.randn(5, 24, device=device), torch.randn(40, 24, device=device)
    indices, grad = torch.arange(10, device=device).view(5, 2), torch.ones(5, 2, device=device)
    for metric in ("euclidean", "sqeuclidean", "cosine"):

        def gradients(saved, grad, metric=metric):
            return backward(features, bank, None, 2, metric, saved, grad, [True, True], backend)

        indices[1, 1], grad[1, 1] = 3, 0
        expected = gradients(indices, grad)
        grad[1, 1] = 1
        for index in (2**40, -(2**40), len(bank), -1):
            indices[1, 1] = index
            if backend == "cpu":
                with pytest.raises(ValueError, match=r"saved_indices must lie in \[0, P=40\)"):
                    gradients(indices, grad)
            else:
                assert_close(gradients(indices, grad), expected, 0)


def test_results_of_nearest_travel():
    near = vsad.ops.prototype_distance(torch.randn(3, 4), torch.randn(9, 4), 2)
    file = io.BytesIO()
    torch.save(near, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, vsad.ops.Nearest)
    assert all(map(torch.equal, loaded, near))
    leaves, spec = torch.utils._pytree.tree_flatten(near)
    assert isinstance(torch.utils._pytree.tree_unflatten(leaves, spec), vsad.ops.Nearest)
    assert isinstance(copy.deepcopy(near), vsad.ops.Nearest)

    class Search(torch.nn.Module):
        def forward(self, x, bank):
            return vsad.ops.prototype_distance(x, bank, 2)

    file = io.BytesIO()
    torch.export.save(torch.export.export(Search(), (torch.randn(3, 4), torch.randn(9, 4))), file)
    file.seek(0)
    assert isinstance(torch.export.load(file).module()(torch.randn(3, 4), torch.randn(9, 4)), vsad.ops.Nearest)
