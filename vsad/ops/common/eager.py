"""Whether a call may go straight to its launcher, or somebody watches and must see a registered operator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)


def is_watched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a compiler, a tracer, a profiler, a mode or a transform of ``torch.func`` follows what happens.

    They follow what torch's dispatcher sees. To go through it in Python costs a call some 10 microseconds, which are
    spared where nobody watches. Subclasses of Tensor, such as fake tensors, watch what is done to them. Tensors that
    are negated lazily, such as the imaginary part of a conjugate, need the dispatcher, which computes their values.
    Those without memory need the checks of the registered operator.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
        or is_transformed()
    ):
        return True
    try:
        return any(t is not None and (type(t) not in _PLAIN or not t.data_ptr() or t.is_neg()) for t in tensors)
    except RuntimeError:  # tensors of `is_grads_batched` have no memory that could be asked for
        return True


def requires_grad(tensors: Iterable[Tensor | None]) -> bool:
    """Whether autograd wants to record what becomes of one of the tensors."""
    return any(t is not None and t.requires_grad for t in tensors)


def is_transformed() -> bool:
    """Whether a transform of ``torch.func``, or forward-mode differentiation, is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
