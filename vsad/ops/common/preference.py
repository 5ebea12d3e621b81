"""The backend that ``using`` prefers.

Its truth is a ContextVar, which every thread and every asyncio task has for itself. Compilers cannot read one. They can
read an attribute of a module, and guard it: ``preference.backend`` is the ContextVar's value, by the module's
``__getattr__``, so a compiled function is compiled anew where another backend is preferred. Within a compiled function
``using`` cannot set a ContextVar either: there it sets ``traced.backend``, which compilers follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_backend: ContextVar[str | None] = ContextVar("vsad_backend", default=None)
backend: str | None  # by __getattr__


class Traced:
    """What ``using`` prefers at the place that a compiler is tracing; None at all other times."""

    def __init__(self) -> None:
        self.backend: str | None = None


traced = Traced()


def current() -> str | None:
    """The preferred backend, outside of compiled functions."""
    return _backend.get()


def __getattr__(name: str) -> str | None:
    if name == "backend":
        return current()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def prefer(backend: str) -> Iterator[None]:
    """Prefer a backend inside the block."""
    if torch.compiler.is_compiling():
        before, traced.backend = traced.backend, backend
        try:
            yield
        finally:
            traced.backend = before
    else:
        token = _backend.set(backend)
        try:
            yield
        finally:
            _backend.reset(token)
