"""Registration of an operator with torch: schemas made from its call, fakes, gradients, and rules of vmap."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor

from . import batching
from .autograd import differentiate
from .checks import check_tensor
from .eager import is_transformed, is_watched, requires_grad
from .launches import Launches, signature
from .registry import OPERATORS, REFERENCE, TENSOR_TYPES, Operator, Outputs

SCHEMA_TYPES: dict[type | types.UnionType, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "SymInt",
    int | None: "SymInt?",
    float: "float",
    bool: "bool",
    str: "str",
}


def register(operator: Operator[Any]) -> tuple[Callable[..., Outputs], Launches]:
    """Register ``vsad::<name>_fwd`` and, where it has gradients, ``vsad::<name>_bwd``.

    Returns:
        ``run(call, backend, key)``, which chooses the backend, computes the outputs, and records the call for autograd;
        and the launches that it learns by ``key``, the call's signature or None.
    """
    OPERATORS[operator.name] = operator
    launches, tensors = Launches(operator), operator.tensors
    forward = _register_forward(operator, launches)
    eager = transformed = None
    if operator.gradients:
        eager, transformed = differentiate(operator, launches, forward, _register_backward(operator))

    def run(call: Any, backend: str | None, key: bytes | None = None) -> Outputs:
        chosen = operator.choose(call, backend)
        if chosen == REFERENCE and not operator.opaque_reference:
            return operator.reference(call)
        if is_watched(call[:tensors]):
            # Asked first, because torch.compile before torch 2.12 cannot tell whether a function is there.
            if not torch.compiler.is_compiling() and transformed and is_transformed():
                return transformed(*call, chosen)
            return forward(*call, chosen)
        if eager and torch.is_grad_enabled() and requires_grad(call[:tensors]):
            return eager(*call, chosen)
        return launches.launch(call, chosen, key)

    return run, launches


def arguments_schema(operator: Operator[Any]) -> str:
    """The arguments of the operator's call as a torch schema."""
    return ", ".join(f"{SCHEMA_TYPES[hint]} {name}" for name, hint in get_type_hints(operator.call).items())


def _register_forward(operator: Operator[Any], launches: Launches) -> Callable[..., Outputs]:
    name = f"vsad::{operator.name}_fwd"
    results = ", ".join(f"Tensor {output}" for output in operator.outputs)
    torch.library.define(name, f"({arguments_schema(operator)}, str backend) -> ({results})")
    check = _full_check(operator)

    def forward(*arguments: Any) -> Outputs | Tensor:
        *fields, backend = arguments
        call = operator.call(*fields)
        check(call)
        operator.choose(call, backend)
        return _as_result(launches.launch(call, backend, signature(*call, backend)))

    def fake(*arguments: Any) -> Outputs | Tensor:
        call = operator.call(*arguments[:-1])
        operator.check(call)
        return _as_result(operator.empty(call))

    torch.library.impl(name, "CompositeExplicitAutograd")(forward)
    torch.library.register_fake(name)(fake)
    # calls `forward` above, which an editor cannot know
    registered: Callable[..., Any] = getattr(torch.ops.vsad, f"{operator.name}_fwd").default
    many = registered if len(operator.outputs) > 1 else lambda *arguments: (registered(*arguments),)
    torch.library.register_vmap(name, batching.forward_rule(operator, registered))
    return many


def _full_check(operator: Operator[Any]) -> Callable[[Any], None]:
    """What the public function has checked, for those who call the registered operator."""
    tensors = [(name, hint == Tensor) for name, hint in get_type_hints(operator.call).items() if hint in TENSOR_TYPES]

    def check(call: Any) -> None:
        for name, is_needed in tensors:
            if is_needed or getattr(call, name) is not None:
                check_tensor(operator.name, name, getattr(call, name))
                _check_memory(operator.name, name, getattr(call, name))
        operator.check(call)

    return check


def _check_memory(op: str, name: str, tensor: Tensor) -> None:
    """Torch does not look for it before it copies a tensor that a launcher wants to be contiguous."""
    if not tensor.is_meta and tensor.data_ptr() == 0 and tensor.numel() > 0:
        raise ValueError(f"{op}: {name} must be stored, got {list(tensor.shape)} that has no memory: it was freed")


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
    check = _full_check(operator)

    def backward(*arguments: Any) -> Outputs:
        call, outputs, grads = operator.split_backward(arguments)
        *_, needs, backend = arguments
        check(call)
        _check_backward(operator, call, outputs, grads, needs)
        operator.choose(call, backend)
        return operator.backward(backend)(call, outputs, grads, tuple(needs))

    def fake(*arguments: Any) -> Outputs:
        call, _, _ = operator.split_backward(arguments)
        wanted = zip(gradients.empty(call), arguments[-2])
        return tuple(grad if need else grad.new_empty((0,)) for grad, need in wanted)

    torch.library.impl(name, "CompositeExplicitAutograd")(backward)
    torch.library.register_fake(name)(fake)
    registered = cast(Callable[..., Outputs], getattr(torch.ops.vsad, f"{operator.name}_bwd").default)
    torch.library.register_vmap(name, batching.backward_rule(operator, registered))
    return registered


def _check_backward(
    operator: Operator[Any], call: Any, saved: Outputs, grads: tuple[Tensor | None, ...], needs: list[bool]
) -> None:
    """What is saved, and the gradients that come in, are as large as the outputs, and beside them."""
    gradients = cast(Any, operator.gradients)
    if len(needs) != len(gradients.arguments):
        raise ValueError(
            f"{operator.name}: needs must hold a flag for each of {list(gradients.arguments)}, got {list(needs)}"
        )
    empty = dict(zip(operator.outputs, operator.empty(call)))
    for kind, names, tensors in (("saved", gradients.saved, saved), ("grad", gradients.outputs, grads)):
        for name, tensor in zip(names, tensors):
            if tensor is None and kind == "grad" and name != gradients.outputs[0]:
                continue
            check_tensor(operator.name, f"{kind}_{name}", tensor)
            assert tensor is not None
            _check_memory(operator.name, f"{kind}_{name}", tensor)
            shape, dtype, device = wanted = empty[name].shape, empty[name].dtype, empty[name].device
            if (tensor.shape, tensor.dtype, tensor.device) != wanted:
                raise ValueError(
                    f"{operator.name}: {kind}_{name} must be {list(shape)}, {dtype}, on {device}, got "
                    f"{list(tensor.shape)}, {tensor.dtype}, on {tensor.device}"
                )
