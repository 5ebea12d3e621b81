"""Tensors as the compiled modules and Triton take them: pointers, strides and codes."""

from __future__ import annotations

import torch
from torch import Tensor

# The codes of Scalar in csrc/common/scalar.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}


def pointer(t: Tensor | None) -> int:
    """Where a tensor lies; 0 for none."""
    return 0 if t is None else t.data_ptr()


def matrix(t: Tensor) -> tuple[int, int, int, int, int, int]:
    """Where a matrix lies: its pointer, dtype code, rows, columns, and both strides in elements."""
    (rows, columns), (row_stride, column_stride) = t.shape, t.stride()
    return t.data_ptr(), DTYPES[t.dtype], rows, columns, row_stride, column_stride


def image(t: Tensor) -> tuple[int, ...]:
    """Where a tensor of images lies: its pointer and its strides in elements."""
    return (t.data_ptr(), *t.stride())


def batch_stride(homography: Tensor) -> int:
    """Elements from one batch of dense homographies to the next; 0 where all batches share one."""
    return homography.stride(0) if homography.shape[0] > 1 else 0
