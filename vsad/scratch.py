"""Tensors of many samples in temporary files, of which memory holds what is being looked at."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, Protocol, cast

import numpy as np
import torch
from torch import Tensor

_REMEDY = "set TMPDIR to a folder on a larger disk"


class Samples(Protocol):
    """Tensors of one shape, one of every sample: a tensor that holds them all, or files on disk."""

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...

    def __iter__(self) -> Iterator[Tensor]: ...


class Scratch:
    """Tensors of one shape, one of every sample, in a temporary file.

    A sample is mapped into memory when it is asked for, and takes none once it is no longer used. The file lies in the
    folder that ``tempfile`` chooses, the environment's ``TMPDIR`` for one, and has no name there: it is gone with the
    object, or with the process, however that ends.

    Args:
        samples: to begin with.

    Example:
        >>> kept = Scratch(torch.full((2, 3), value) for value in (0.0, 1.0))
        >>> kept.append(torch.full((2, 3), 2.0))
        >>> kept.shape, float(kept[2].sum())
        (torch.Size([3, 2, 3]), 12.0)
    """

    def __init__(self, samples: Iterable[Tensor] = ()) -> None:
        self._opened, self._count = _Opened(), 0
        self._shape, self._dtype, self._device = torch.Size(()), torch.float32, torch.device("cpu")
        for sample in samples:
            self.append(sample)

    def append(self, sample: Tensor) -> None:
        """Write a sample; it is read on the device where it is now.

        Raises:
            ValueError: its shape or type is not that of the samples before it.
            OSError: there is no room for it.
        """
        if not self._count:
            self._shape, self._dtype, self._device = sample.shape, sample.dtype, sample.device
        if sample.shape != self._shape or sample.dtype != self._dtype:
            raise ValueError(
                f"Scratch: samples must be of one shape and type, {list(self._shape)} {self._dtype}, got "
                f"{list(sample.shape)} {sample.dtype}; give all samples one size"
            )
        rest = sample.detach().cpu().contiguous().view(torch.uint8).numpy().data.cast("B")
        try:
            while rest:
                rest = rest[self._opened.file.write(rest) :]
        except OSError as error:
            raise OSError(
                f"{tempfile.gettempdir()}: must have room for what is computed of the samples, "
                f"{self._bytes / 1e6:.1f} MB of each here alone, got {error}; {_REMEDY}"
            ) from None
        self._count += 1

    @property
    def _bytes(self) -> int:
        """Those of one sample."""
        return self._shape.numel() * self._dtype.itemsize

    @property
    def shape(self) -> torch.Size:
        """As a tensor of all samples has it; ``(0,)`` where there are none."""
        return torch.Size((self._count, *self._shape))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        """A sample; what is written into it does not reach the file.

        Raises:
            IndexError: there is no such sample.
        """
        first = range(self._count)[index] * self._bytes
        mapped = np.memmap(self._opened.file, np.uint8, "c", first, (self._bytes,))
        return torch.from_numpy(mapped).view(self._dtype).view(self._shape).to(self._device)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(self._count))

    def to(self, device: torch.device) -> Scratch:
        """The same samples of the same file, to be read on another device; append to neither any more."""
        moved = Scratch.__new__(Scratch)
        moved.__dict__ = {**self.__dict__, "_device": device}
        return moved

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Scratch: a temporary file cannot be sent to another process or be copied; write its samples into a folder "
            "with `write_latents`, or load them without workers"
        )


class _Opened:
    """A temporary file that is closed with whoever used it last."""

    def __init__(self) -> None:
        # Without a buffer, a full disk is noticed where a sample is written, and a mapping sees what is written.
        self.file = cast(io.FileIO, tempfile.TemporaryFile(buffering=0))  # noqa: SIM115

    def __del__(self) -> None:
        self.file.close()


def append_to(columns: list[Scratch], row: Sequence[Tensor]) -> None:
    """Append each tensor of a sample to its own column; the first sample makes the columns."""
    columns.extend(Scratch() for _ in row[len(columns) :])
    for column, tensor in zip(columns, row, strict=True):
        column.append(tensor)


def in_columns(rows: Iterable[Sequence[Tensor]], expected: int = 0) -> list[Scratch]:
    """What is computed of every sample, several tensors each, in a column for every one of them.

    Args:
        rows: the tensors of each sample.
        expected: how many samples there will be; known after the first whether there is room for them.

    Raises:
        OSError: there is none.
    """
    columns: list[Scratch] = []
    for row in rows:
        append_to(columns, row)
        if len(columns[0]) == 1:
            _check_room(expected, sum(tensor.nbytes for tensor in row))
    return columns


def _check_room(samples: int, each: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if samples * each > free:
        raise OSError(
            f"{folder}: must have room for what is computed of {samples} samples, {samples * each / 1e9:.1f} GB, got "
            f"{free / 1e9:.1f} GB; {_REMEDY}"
        )
