"""Derivatives of every operator beyond its gradient: second and third ones, and the transforms of torch.func."""

import pytest
import torch

from tests.samples import SAMPLES
from tests.small_calls import (
    assert_close,
    each_differentiable,
    each_differentiable_even_simulated,
    each_row,
    loss,
    outputs,
    small_call,
)
from tests.test_ops import floats
from vsad.ops.common.registry import REFERENCE


@each_differentiable
def test_second_derivatives_are_those_of_finite_differences(operator, backend):
    if torch.float64 not in operator.backend(backend).dtypes:
        pytest.skip("computes in float32; its second derivatives are compared with the reference's")
    smooth = [i for i, sample in enumerate(SAMPLES[operator.name]) if sample.smooth]
    assert smooth
    for which in smooth:
        leaves, options = small_call(operator, backend, torch.float64, which)
        names = tuple(leaves)

        def function(*values, names=names, options=options):
            return tuple(floats(outputs(operator, backend, options)(dict(zip(names, values)))))

        assert torch.autograd.gradgradcheck(function, tuple(leaves.values()), fast_mode=True, atol=1e-4)


@each_differentiable_even_simulated
def test_a_gradient_penalty_reaches_every_argument(operator, backend):
    leaves, options = small_call(operator, backend)

    def penalized(name):
        value = loss(operator, name, options)(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
        return torch.autograd.grad(value + sum(g.double().square().sum() for g in grads), list(leaves.values()))

    assert_close(penalized(backend), penalized(REFERENCE), 1e-3)


@each_differentiable
def test_third_derivatives(operator, backend):
    leaves, options = small_call(operator, backend)

    def third(name):
        value = loss(operator, name, options)(leaves)
        for _ in range(3):
            grads = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
            value = sum(g.double().square().sum() for g in grads)
        return value

    assert_close(third(backend), third(REFERENCE), 1e-2)


@each_differentiable
def test_torch_func_takes_gradients(operator, backend):
    leaves, options = small_call(operator, backend)
    plain = {n: t.detach() for n, t in leaves.items()}
    value = loss(operator, backend, options)(leaves)
    expected = torch.autograd.grad(value, list(leaves.values()))
    found = torch.func.grad(loss(operator, backend, options))(plain)
    assert_close([found[n] for n in leaves], expected)
    twice = torch.func.grad(
        lambda x: sum(g.square().sum() for g in torch.func.grad(loss(operator, backend, options))(x).values())
    )
    reference = torch.func.grad(
        lambda x: sum(g.square().sum() for g in torch.func.grad(loss(operator, REFERENCE, options))(x).values())
    )
    assert_close(twice(plain), reference(plain), 1e-3)


@each_row
@pytest.mark.parametrize("batched", ["all", "first"])
def test_vmap_is_a_loop(operator, backend, batched):
    """Over all tensors, which may have no batch of their own, and over the first, which has one."""
    leaves, options = small_call(operator, backend)
    tensors = {n: t.detach() for n, t in leaves.items()}
    tensors |= {n: options.pop(n) for n in [n for n, t in options.items() if isinstance(t, torch.Tensor)]}
    chosen = list(tensors) if batched == "all" else list(tensors)[:1]
    shared = {n: t for n, t in tensors.items() if n not in chosen}
    many = {n: torch.stack([t, t.flip(-1), t.flip(0)]) for n, t in tensors.items() if n in chosen}

    def one(slices):
        return outputs(operator, backend, {**options, **shared})(slices)

    expected = [one({n: t[i] for n, t in many.items()}) for i in range(3)]
    assert_close(torch.vmap(one)(many), [torch.stack(t) for t in zip(*expected)], 1e-5)
    last = {n: t.movedim(0, -1) for n, t in many.items()}
    assert_close(torch.vmap(one, in_dims=-1)(last), [torch.stack(t) for t in zip(*expected)], 1e-5)


@each_differentiable
def test_vmap_takes_gradients_of_each_sample(operator, backend):
    leaves, options = small_call(operator, backend)
    for chosen in ([next(iter(leaves))], list(leaves)):
        shared = {n: t.detach() for n, t in leaves.items() if n not in chosen}
        many = {n: torch.stack([leaves[n].detach(), leaves[n].detach().flip(-1)]) for n in chosen}

        def one(x, shared=shared):
            return loss(operator, backend, options)({**x, **shared})

        found = torch.vmap(torch.func.grad(one))(many)
        expected = [torch.func.grad(one)({n: t[i] for n, t in many.items()}) for i in range(2)]
        assert_close(found, {n: torch.stack([e[n] for e in expected]) for n in many})
        of_shared = torch.vmap(torch.func.grad(lambda s, x: loss(operator, backend, options)({**x, **s})), (None, 0))
        slices = [{n: t[i] for n, t in many.items()} for i in range(2)]
        single = [torch.func.grad(lambda s, x: loss(operator, backend, options)({**x, **s}))(shared, x) for x in slices]
        assert_close(of_shared(shared, many), {n: torch.stack([e[n] for e in single]) for n in shared})


@each_differentiable
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("wanted", ["all", "first"])
def test_many_gradients_at_once(operator, backend, batch, wanted):
    """Of the same outputs. Those of the first argument are one call of the backward, what was saved expanded."""
    leaves, options = small_call(operator, backend)
    leaves = {n: t.detach()[:batch] if n in operator.batched else t.detach() for n, t in leaves.items()}
    if wanted == "first":
        options |= {n: leaves.pop(n) for n in list(leaves)[1:]}

    def function(*values):
        return tuple(floats(outputs(operator, backend, options)(dict(zip(leaves, values)))))

    values = tuple(t.requires_grad_() for t in leaves.values())
    found = function(*values)
    many = tuple(torch.randn(3, *t.shape).to(t) for t in found)
    expected = [torch.autograd.grad(found, values, [t[i] for t in many], retain_graph=True) for i in range(3)]
    expected = [torch.stack(grads) for grads in zip(*expected)]
    assert_close(torch.autograd.grad(found, values, many, retain_graph=True, is_grads_batched=True), expected)
    _, pull = torch.func.vjp(function, *(t.detach() for t in values))
    assert_close(torch.vmap(pull)(many), expected)


@each_differentiable
def test_what_was_saved_may_come_back_in_another_layout(operator, backend):
    leaves, options = small_call(operator, backend)

    def gradients(unpack):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            found = floats(outputs(operator, backend, options)(leaves))
        return torch.autograd.grad(sum(t.sum() for t in found), list(leaves.values()))

    def strided(t):
        return torch.stack([t, t], -1)[..., 0]

    assert_close(gradients(strided), gradients(lambda t: t))
    for unpack in (torch.Tensor.double, lambda t: t[..., :0]):
        with pytest.raises((ValueError, TypeError), match=operator.name):
            gradients(unpack)


@each_differentiable
def test_forward_mode_is_refused_in_words(operator, backend):
    leaves, options = small_call(operator, backend)
    plain = {n: t.detach() for n, t in leaves.items()}
    with pytest.raises(NotImplementedError, match=f"{operator.name}: forward-mode differentiation .* backend='torch'"):
        torch.func.jvp(outputs(operator, backend, options), (plain,), (plain,))
    with torch.autograd.forward_ad.dual_level():
        duals = {n: torch.autograd.forward_ad.make_dual(t, t) for n, t in plain.items()}
        with pytest.raises(NotImplementedError, match=f"{operator.name}: forward-mode differentiation"):
            outputs(operator, backend, options)(duals)
