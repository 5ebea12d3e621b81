"""Gradients of a registered operator, and derivatives of these gradients.

There are three ways to a gradient, with the same formulas. In eager mode an autograd function calls the launchers.
Compilers and tracers see the registered operators, which have gradients of their own. The transforms of ``torch.func``
understand neither; they need autograd functions of another form, around the registered operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .eager import is_transformed, is_watched
from .launches import Launches, signature
from .registry import Gradients, Operator, Outputs

MaybeTensors = tuple[Tensor | None, ...]
Registered = Callable[..., Outputs]


def differentiate(
    operator: Operator[Any], launches: Launches, forward: Registered, backward: Registered
) -> tuple[Registered, Registered]:
    """Give an operator's registered forward and backward their derivatives.

    Returns:
        The operator as it is called in eager mode, and as it is called under a transform.
    """
    second = _BackwardFormula(operator)
    torch.library.register_autograd(f"vsad::{operator.name}_bwd", second.backward, setup_context=second.save)
    transformed_backward = _transformable(operator, backward, second)

    def any_backward(*arguments: Any) -> Outputs:
        return transformed_backward(*arguments) if is_transformed() else backward(*arguments)

    first = _ForwardFormula(operator, any_backward)
    torch.library.register_autograd(f"vsad::{operator.name}_fwd", first.backward, setup_context=first.save)
    return _eager(operator, launches, first), _transformable(operator, forward, first)


class _ForwardFormula:
    """Saves a call of the operator, and finds its gradients."""

    def __init__(self, operator: Operator[Any], backward: Registered) -> None:
        self.operator, self.registered_backward = operator, backward
        self.gradients = cast(Gradients, operator.gradients)
        fields = operator.call._fields
        self.arguments, self.tensors = len(fields), operator.tensors
        self.places = tuple(fields.index(argument) for argument in self.gradients.arguments)
        self.saved = tuple(operator.outputs.index(output) for output in self.gradients.saved)
        self.incoming = tuple(operator.outputs.index(output) for output in self.gradients.outputs)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        kept = (*inputs[: self.tensors], *(output[i] for i in self.saved))
        ctx.save_for_backward(*kept)
        ctx.kinds = _kinds(kept)
        ctx.options = inputs[self.tensors :]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for i, t in enumerate(output) if i not in self.incoming))

    def backward(self, ctx: Any, *grads: Tensor | None) -> MaybeTensors:
        results: list[Tensor | None] = [None] * (self.arguments + 1)
        wanted = [grads[i] for i in self.incoming]
        if all(grad is None for grad in wanted):
            return tuple(results)
        *options, backend = ctx.options
        kept = ctx.saved_tensors
        if wanted[0] is None:  # only a later output was used
            wanted[0] = torch.zeros_like(kept[self.tensors + self.gradients.saved.index(self.gradients.outputs[0])])
        needs = tuple(ctx.needs_input_grad[i] for i in self.places)
        call, saved = self.operator.call(*kept[: self.tensors], *options), kept[self.tensors :]
        # a hook of saved tensors may give anything back: the registered operator checks it
        if torch.is_grad_enabled() or _kinds(kept) != ctx.kinds or is_watched((*kept, *wanted)):
            found = self.registered_backward(*call, *saved, *wanted, needs, backend)
        else:
            found = self.operator.backward(backend)(call, saved, tuple(wanted), needs)
        for place, grad, need in zip(self.places, found, needs):
            results[place] = grad if need else None
        return tuple(results)


def _kinds(tensors: MaybeTensors) -> list[Any]:
    return [t if t is None else (t.shape, t.dtype, t.device) for t in tensors]


class _BackwardFormula:
    """Saves a call of the operator's backward, and finds its gradients: by autograd through ``Gradients.again``."""

    def __init__(self, operator: Operator[Any]) -> None:
        self.operator, self.gradients = operator, cast(Gradients, operator.gradients)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        ctx.save_for_backward(*(t for t in inputs if isinstance(t, Tensor)))
        ctx.others = [None if isinstance(t, Tensor) else t for t in inputs]
        ctx.are_tensors = [isinstance(t, Tensor) for t in inputs]
        ctx.set_materialize_grads(False)

    def backward(self, ctx: Any, *grad_grads: Tensor | None) -> MaybeTensors:
        kept = iter(ctx.saved_tensors)
        inputs = tuple(next(kept) if is_tensor else other for is_tensor, other in zip(ctx.are_tensors, ctx.others))
        results: list[Tensor | None] = [None] * len(inputs)
        followed = {name: grad for name, grad in zip(self.gradients.arguments, grad_grads) if grad is not None}
        if not followed:
            return tuple(results)
        call, saved, grads = self.operator.split_backward(inputs)
        names = [name for name in self.gradients.arguments if getattr(call, name) is not None]
        given = [i for i, grad in enumerate(grads) if grad is not None]

        def outputs(*arguments: Tensor) -> Outputs:
            found = self.gradients.again(call._replace(**dict(zip(names, arguments))), saved)
            return tuple(found[i] for i in given)

        def backward(*both: Tensor) -> Outputs:
            _, pull, *_ = torch.func.vjp(outputs, *both[: len(names)])
            found = dict(zip(names, pull(both[len(names) :])))
            return tuple(found[name] for name in followed)

        places = [*(call._fields.index(name) for name in names), *(len(call) + len(saved) + i for i in given)]
        _, pull, *_ = torch.func.vjp(backward, *(inputs[place] for place in places))
        for place, grad in zip(places, pull(tuple(followed.values()))):
            results[place] = grad
        return tuple(results)


def _eager(operator: Operator[Any], launches: Launches, formula: _ForwardFormula) -> Registered:
    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Outputs:
            *fields, backend = arguments
            outputs = launches.launch(operator.call(*fields), backend, signature(*arguments))
            formula.save(ctx, arguments, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> MaybeTensors:
            return formula.backward(ctx, *grads)

    Eager.__name__ = operator.name
    return cast(Registered, Eager.apply)


def _transformable(
    operator: Operator[Any], registered: Registered, formula: _ForwardFormula | _BackwardFormula
) -> Registered:
    class Transformable(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments: Any) -> Outputs:
            return registered(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
            formula.save(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> MaybeTensors:
            return formula.backward(ctx, *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> MaybeTensors:
            raise NotImplementedError(
                f"{operator.name}: forward-mode differentiation (jvp, jacfwd, dual tensors) is offered by "
                "backend='torch' only; pass that, or use reverse mode (vjp, jacrev)"
            )

    Transformable.__name__ = operator.name
    return cast(Registered, Transformable.apply)
