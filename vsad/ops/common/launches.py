"""How a call is launched whose like has been launched before.

Checks of operators look at what tensors are, never at their values, and so does what is made ready for a kernel: the
choice of a backend, strides, the layout of outputs. All of it is found once for all calls of a signature: those whose
arguments agree in types, shapes, strides, dtypes, devices, and in all that is no tensor. It costs a call some 50
microseconds, and to find its signature two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vsad import machine

from . import preference
from .eager import is_watched
from .registry import Launch, Operator, Outputs

MOST = 4096  # signatures of an operator; one takes some 2 kB


def _finder() -> Callable[..., bytes | None] | None:
    """What finds signatures; None where no kernels are compiled, or torch is older than 2.10."""
    exchange = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    module: Any = None
    if machine.missing("cpu") is None:
        from vsad import _cpu as module
    elif machine.missing("cuda") is None:
        from vsad import _cuda as module
    return module.Signature(Tensor, torch.nn.Parameter, exchange) if exchange is not None and module else None


_find = _finder()


def signature(*arguments: Any) -> bytes | None:
    """What calls share that one launch serves.

    None where a call must not be launched straight: somebody watches or records it, autocast casts its arguments, a
    tensor's memory cannot be read, or the type of an argument is not known.
    """
    if is_watched(()) or _find is None or torch._C._is_any_autocast_enabled():
        return None
    state = preference.current(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    return _find(torch.is_grad_enabled(), *arguments, *state)


class Launches:
    """The launches of an operator, by the signatures of their calls."""

    def __init__(self, operator: Operator[Any]) -> None:
        self._operator = operator
        self._known: dict[bytes, Launch] = {}

    def find(self, key: bytes | None) -> Launch | None:
        """The launch of calls of a signature, or None where none was launched yet."""
        return None if key is None else self._known.get(key)

    def launch(self, call: Any, backend: str, key: bytes | None) -> Outputs:
        """The outputs of a checked call on a backend; ``key`` is its signature, which its launch is remembered by."""
        known, tensors = self.find(key), call[: self._operator.tensors]
        if known is not None:
            return known(*tensors)
        if key is None or (launch := self._operator.prepare(backend, call)) is None:
            return self._operator.forward(backend)(call)
        outputs = launch(*tensors)
        if len(self._known) >= MOST:  # shapes that never come again, perhaps: begin anew
            self.forget()
        self._known[key] = launch
        return outputs

    def forget(self) -> None:
        """Forget all launches."""
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)
