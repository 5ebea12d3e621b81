"""How launchers describe tensors to ``vsad._cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

# Scalar in csrc/scalar.h
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}
OPERATIONS_PER_THREAD = 1 << 19  # multiply-adds that pay for waking one more thread of torch's, some 5 to 20 us


def image(t: Tensor) -> tuple[int, ...]:
    """Where a tensor of images lies: its pointer and its strides in elements."""
    return (t.data_ptr(), *t.stride())


def threads(operations: int) -> int:
    """How many threads are worth waking for this many multiply-adds; never more than torch would use."""
    return min(torch.get_num_threads(), 1 + operations // OPERATIONS_PER_THREAD)
