"""What is in half precision a detector's configuration says, whatever casts or ``torch.autocast`` say of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from vsad.ops.common.checks import AUTOCAST_DEVICES

Method = TypeVar("Method", bound=Callable[..., Any])


class Unrounded(nn.Module):
    """A module that refuses to be cast to less than float32: by rounded memories it would judge otherwise.

    The message names the remedy; the module stays as it was.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Unrounded:
        """What ``to``, ``half``, ``cuda`` and the like do to every tensor."""
        dtype = fn(torch.empty(0)).dtype
        if torch.finfo(dtype).bits < 32:
            raise TypeError(
                f"{type(self).__name__}: must stay in float32 or float64, as its memory was filled, got {dtype}; leave "
                "it as it is, and have the UNet compute in half by DetectorConfig(mixed_precision='bf16')"
            )
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]


def without_autocast(method: Method) -> Method:
    """Let a function, or a generator at each of its steps, compute as if there were no autocast."""

    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        with _no_autocast():
            return method(*arguments, **options)

    @wraps(method)
    def iterate(*arguments: Any, **options: Any) -> Iterator[Any]:
        steps = method(*arguments, **options)
        while True:
            with _no_autocast():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step

    return cast("Method", iterate if inspect.isgeneratorfunction(inspect.unwrap(method)) else call)


def _no_autocast() -> ExitStack:
    stack = ExitStack()
    for kind in AUTOCAST_DEVICES:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
