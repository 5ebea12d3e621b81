"""Registration of an operator with torch: schemas made from its call, fakes, and the autograd function."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor

from .registry import OPERATORS, REFERENCE, DifferentiableKernels, Operator, Outputs

Run = Callable[[Any, str | None], Outputs]
SCHEMA_TYPES: dict[type | types.UnionType, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    tuple[int, int]: "SymInt[]",
    int: "int",
    int | None: "int?",
    float: "float",
    bool: "bool",
    str: "str",
}


def register(operator: Operator[Any]) -> Run:
    """Register ``vsad::<name>_fwd`` and, where it has gradients, ``vsad::<name>_bwd``.

    Returns:
        ``run(call, backend)``: chooses the backend, computes the outputs, and records the call for autograd.
    """
    OPERATORS[operator.name] = operator
    forward = _register_forward(operator)
    apply = _autograd_function(operator, forward).apply if operator.gradients else forward

    def run(call: Any, backend: str | None) -> Outputs:
        chosen = operator.choose(call, backend)
        if chosen == REFERENCE and not operator.opaque_reference:
            return operator.reference(call)
        return cast(Outputs, apply(*call, chosen))

    return run


def arguments_schema(operator: Operator[Any]) -> str:
    """The arguments of the operator's call as a torch schema."""
    return ", ".join(f"{SCHEMA_TYPES[hint]} {name}" for name, hint in get_type_hints(operator.call).items())


def _register_forward(operator: Operator[Any]) -> Callable[..., Outputs]:
    name = f"vsad::{operator.name}_fwd"
    results = ", ".join(f"Tensor {output}" for output in operator.outputs)
    torch.library.define(name, f"({arguments_schema(operator)}, str backend) -> ({results})")

    def forward(*arguments: Any) -> Outputs | Tensor:
        *fields, backend = arguments
        call = operator.call(*fields)
        compute = operator.reference if backend == REFERENCE else operator.backend(backend).load().forward
        return _as_result(compute(call))

    def fake(*arguments: Any) -> Outputs | Tensor:
        return _as_result(operator.empty(operator.call(*arguments[:-1])))

    torch.library.impl(name, "CompositeExplicitAutograd")(forward)
    torch.library.register_fake(name)(fake)
    # calls `forward` above, which an editor cannot know
    registered: Callable[..., Any] = getattr(torch.ops.vsad, f"{operator.name}_fwd").default
    return registered if len(operator.outputs) > 1 else lambda *arguments: (registered(*arguments),)


def _as_result(outputs: Outputs) -> Outputs | Tensor:
    """Torch wants the only output of an operator itself, not a tuple of it."""
    return outputs if len(outputs) > 1 else outputs[0]


def _register_backward(operator: Operator[Any]) -> Callable[..., Outputs]:
    name, gradients = f"vsad::{operator.name}_bwd", cast(Any, operator.gradients)
    grads = [f"Tensor{'?' if i else ''} grad_{output}" for i, output in enumerate(gradients.outputs)]
    saved = [f"Tensor saved_{output}" for output in gradients.saved]
    arguments = ", ".join([arguments_schema(operator), *saved, *grads, "bool[] needs", "str backend"])
    results = ", ".join(f"Tensor grad_{argument}" for argument in gradients.arguments)
    torch.library.define(name, f"({arguments}) -> ({results})")
    fields, outputs = len(get_type_hints(operator.call)), len(gradients.saved)

    def split(arguments: tuple[Any, ...]) -> tuple[Any, Outputs, tuple[Tensor | None, ...]]:
        *tensors, _needs, _backend = arguments
        return (
            operator.call(*tensors[:fields]),
            tuple(tensors[fields : fields + outputs]),
            tuple(tensors[fields + outputs :]),
        )

    def backward(*arguments: Any) -> Outputs:
        *_, needs, backend = arguments
        kernels = cast(DifferentiableKernels, operator.backend(backend).load())
        return kernels.backward(*split(arguments), tuple(needs))

    def fake(*arguments: Any) -> Outputs:
        call, _, _ = split(arguments)
        wanted = zip(gradients.empty(call), arguments[-2])
        return tuple(grad if need else grad.new_empty((0,)) for grad, need in wanted)

    torch.library.impl(name, "CompositeExplicitAutograd")(backward)
    torch.library.register_fake(name)(fake)
    return cast(Callable[..., Outputs], getattr(torch.ops.vsad, f"{operator.name}_bwd").default)


def _autograd_function(operator: Operator[Any], forward_op: Callable[..., Outputs]) -> type[torch.autograd.Function]:
    backward_op, gradients = _register_backward(operator), cast(Any, operator.gradients)
    hints = get_type_hints(operator.call)
    tensors = sum(hint in (Tensor, Tensor | None) for hint in hints.values())
    places = tuple(list(hints).index(argument) for argument in gradients.arguments)
    saved = tuple(operator.outputs.index(output) for output in gradients.saved)
    incoming = tuple(operator.outputs.index(output) for output in gradients.outputs)
    count = len(hints)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Outputs:
            outputs = forward_op(*arguments)
            ctx.save_for_backward(*arguments[:tensors], *(outputs[i] for i in saved))
            ctx.options = arguments[tensors:]
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*(output for i, output in enumerate(outputs) if i not in incoming))
            return outputs

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            *options, backend = ctx.options
            kept = ctx.saved_tensors
            wanted = [grads[i] for i in incoming]
            results: list[Tensor | None] = [None] * (count + 1)
            if all(grad is None for grad in wanted):
                return tuple(results)
            if wanted[0] is None:  # only a later output was used
                wanted[0] = torch.zeros_like(kept[tensors + gradients.saved.index(gradients.outputs[0])])
            needs = [ctx.needs_input_grad[i] for i in places]
            found = backward_op(*kept[:tensors], *options, *kept[tensors:], *wanted, needs, backend)
            for place, grad, need in zip(places, found, needs):
                results[place] = grad if need else None
            return tuple(results)

    return Differentiable
