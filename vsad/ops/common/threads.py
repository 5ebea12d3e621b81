"""How many threads a call of ``vsad._cpu`` is worth."""

from __future__ import annotations

import torch

OPERATIONS_PER_THREAD = 1 << 19  # multiply-adds that take about 50 us; waking a thread takes 5 to 20 us


def threads(operations: int) -> int:
    """How many threads are worth waking for this many multiply-adds; never more than torch would use."""
    return min(torch.get_num_threads(), 1 + operations // OPERATIONS_PER_THREAD)
