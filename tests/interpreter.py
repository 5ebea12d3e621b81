"""Triton's interpreter patches its language for every function that a kernel calls, half of its time: once will do."""

from triton.runtime import interpreter

_ready = set()  # the globals of the functions that were called
_call = interpreter.InterpretedFunction.__call__


def _call_quickly(self, *args, **kwargs):
    if id(self.fn.__globals__) in _ready:
        return self.rewrite()(*args, **kwargs)
    _ready.add(id(self.fn.__globals__))
    return _call(self, *args, **kwargs)


interpreter.InterpretedFunction.__call__ = _call_quickly
