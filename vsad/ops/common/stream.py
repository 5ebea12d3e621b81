"""Where the kernels of ``vsad._cuda`` run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def stream_of(t: Tensor) -> Iterator[int]:
    """Make the tensor's device the current one; gives the stream that kernels join. The emulator has neither."""
    if t.device.type == "cpu":
        yield 0
        return
    with torch.cuda.device(t.device):
        yield torch.cuda.current_stream(t.device).cuda_stream
