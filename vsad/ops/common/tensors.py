"""Tensors as the compiled modules and Triton take them: pointers, strides and codes."""

from __future__ import annotations

import torch
from torch import Tensor

# The codes of Scalar in csrc/common/scalar.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}


class UnusableMemoryError(ValueError):
    """A kernel cannot read a tensor where it lies. ``Operator`` puts its name before the message."""


def pointer(t: Tensor | None, alignment: int | None = None) -> int:
    """Where a tensor lies; 0 for none.

    Args:
        t: the tensor.
        alignment: what its address must be a multiple of; by default the size of an element.

    Raises:
        UnusableMemoryError: the tensor has elements but no memory, because its storage was freed or it is a fake; or
            its memory is not aligned.
    """
    if t is None:
        return 0
    address = t.data_ptr()
    if address == 0 and t.numel():
        raise UnusableMemoryError(
            f"a tensor of shape {list(t.shape)} on {t.device} has no memory: its storage was freed, or it is a fake"
        )
    if address % (alignment or t.element_size()):
        raise UnusableMemoryError(
            f"a tensor of shape {list(t.shape)} on {t.device} is not aligned to its elements in memory; call .clone()"
        )
    return address


def matrix(t: Tensor) -> tuple[int, int, int, int, int, int]:
    """Where a matrix lies: its pointer, dtype code, rows, columns, and both strides in elements."""
    (rows, columns), (row_stride, column_stride) = t.shape, t.stride()
    return pointer(t), DTYPES[t.dtype], rows, columns, row_stride, column_stride


def image(t: Tensor) -> tuple[int, ...]:
    """Where a tensor of images lies: its pointer and its strides in elements."""
    return (pointer(t), *t.stride())


def batch_stride(homography: Tensor) -> int:
    """Elements from one batch of dense homographies to the next; 0 where all batches share one."""
    return homography.stride(0) if homography.shape[0] > 1 else 0
