"""What is in half precision a detector's configuration says, whatever ``torch.autocast`` is around a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from vsad.ops.common.checks import AUTOCAST_DEVICES

Method = TypeVar("Method", bound=Callable[..., Any])


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
