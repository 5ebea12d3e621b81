"""Where the kernels of ``vsad._cuda`` run."""

from __future__ import annotations

import torch
from torch import Tensor


class _Stream:
    """A context manager that is spared contextlib's microseconds."""

    __slots__ = ("_device", "_index")

    def __init__(self, t: Tensor) -> None:
        self._index = t.get_device()
        self._device: torch.cuda.device | None = None

    def __enter__(self) -> int:
        if self._index < 0:
            return 0
        if self._index != torch.cuda.current_device():
            self._device = torch.cuda.device(self._index)
            self._device.__enter__()
        # what torch.cuda.current_stream(...).cuda_stream is, in a tenth of the time
        return torch._C._cuda_getCurrentRawStream(self._index)

    def __exit__(self, *error: object) -> None:
        if self._device is not None:
            self._device.__exit__(*error)


def stream_of(t: Tensor) -> _Stream:
    """Make the tensor's device the current one; gives the stream that kernels join. The emulator has neither."""
    return _Stream(t)
