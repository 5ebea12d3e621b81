"""How launchers describe tensors to ``vsad._cuda``, and where their kernels run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Scalar in csrc/scalar.h
DTYPES = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}


def image(t: Tensor) -> tuple[int, ...]:
    """Where a tensor of images lies: its pointer and its strides in elements."""
    return (t.data_ptr(), *t.stride())


def pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


@contextmanager
def on(t: Tensor) -> Iterator[int]:
    """Make the tensor's device the current one; gives the stream that kernels join. The emulator has neither."""
    if t.device.type == "cpu":
        yield 0
        return
    with torch.cuda.device(t.device):
        yield torch.cuda.current_stream(t.device).cuda_stream
