"""Rules of ``torch.vmap`` for registered operators.

Where the tensors that vmap batches have a batch of their own, the two become one, and one call computes all. Otherwise
(``neighbors``, ``bias`` or ``prototypes`` that differ, or gradients of those that are shared) every element of vmap's
batch is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .registry import Operator

Rule = Callable[..., tuple[Any, Any]]
Dims = tuple[int | None, ...]


def forward_rule(operator: Operator[Any], registered: Callable[..., Any]) -> Rule:
    """The rule of ``vsad::<name>_fwd``."""
    batched = [name in operator.batched for name in operator.call._fields]

    def rule(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Any, Any]:
        count = info.batch_size
        fold = [*batched, False]
        if not _foldable(arguments, in_dims, fold):
            return _one_by_one(registered, count, in_dims, arguments)
        found = registered(*_folded(arguments, in_dims, fold, count))
        many = found if isinstance(found, tuple) else (found,)
        unfolded = tuple(t.unflatten(0, (count, t.shape[0] // count)) for t in many)
        return (unfolded, (0,) * len(unfolded)) if isinstance(found, tuple) else (unfolded[0], 0)

    return rule


def backward_rule(operator: Operator[Any], registered: Callable[..., Any]) -> Rule:
    """The rule of ``vsad::<name>_bwd``."""
    gradients = cast(Any, operator.gradients)
    outputs = len(gradients.saved) + len(gradients.outputs)
    fold = [*(name in operator.batched for name in operator.call._fields), *[True] * outputs, False, False]

    def rule(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Any, Any]:
        count, needs = info.batch_size, arguments[-2]
        shared = any(need and name not in operator.batched for name, need in zip(gradients.arguments, needs))
        if shared or not _foldable(arguments, in_dims, fold):
            return _one_by_one(registered, count, in_dims, arguments)
        found = registered(*_folded(arguments, in_dims, fold, count))
        results = []
        for name, need, grad in zip(gradients.arguments, needs, found):
            if not need:
                results.append(grad.new_empty((count, 0)))
                continue
            place = operator.call._fields.index(name)
            dim, like = in_dims[place], arguments[place]
            size = like.shape[0] if dim is None else like.movedim(dim, 0).shape[1]
            grad = grad.unflatten(0, (count, grad.shape[0] // count))
            # one homography served the whole batch
            results.append(grad if grad.shape[1] == size else grad.sum(1, keepdim=True))
        return tuple(results), (0,) * len(results)

    return rule


def _foldable(arguments: tuple[Any, ...], in_dims: Dims, fold: list[bool]) -> bool:
    """Whether only such tensors are batched as have a batch of their own."""
    return all(may or dim is None or not isinstance(t, Tensor) for t, dim, may in zip(arguments, in_dims, fold))


def _folded(arguments: tuple[Any, ...], in_dims: Dims, fold: list[bool], count: int) -> list[Any]:
    """The arguments with vmap's batch in front of their own, both as one dimension."""
    front: dict[int, Tensor] = {}
    for i, (t, dim, may) in enumerate(zip(arguments, in_dims, fold)):
        if may and isinstance(t, Tensor):
            front[i] = t.expand(count, *t.shape) if dim is None else t.movedim(dim, 0)
    sizes = [t.shape[1] for t in front.values()]
    size = next((n for n in sizes if n != 1), 1)
    whole = {i: t.expand(count, size, *t.shape[2:]).flatten(0, 1) for i, t in front.items()}
    return [whole.get(i, t) for i, t in enumerate(arguments)]


def _one_by_one(
    registered: Callable[..., Any], count: int, in_dims: Dims, arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The results of one call after the other, stacked."""
    if count == 0:
        raise ValueError("vmap: the batch must have at least one element, got 0")
    found = []
    for i in range(count):
        one = [t.select(d, i) if isinstance(t, Tensor) and d is not None else t for t, d in zip(arguments, in_dims)]
        found.append(registered(*one))
    if not isinstance(found[0], tuple):
        return torch.stack(found), 0
    stacked = tuple(torch.stack(each) for each in zip(*found))
    return stacked, (0,) * len(stacked)
