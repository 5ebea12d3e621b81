"""What the geometry functions check of their arguments, and the precision of coordinates."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Size = tuple[int, int]


def check_homography(op: str, homography: Tensor) -> None:
    """Refuse what is not ``(..., 3, 3)``."""
    if homography.ndim < 2 or homography.shape[-2:] != (3, 3):
        raise ValueError(f"{op}: homography must be [... 3 3], got {list(homography.shape)}")


def check_points(op: str, name: str, points: Tensor) -> None:
    """Refuse what is not ``(..., N, 2)``."""
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"{op}: {name} must be [... N 2], each point (x, y), got {list(points.shape)}")


def checked_size(op: str, name: str, size: Size) -> Size:
    """Return ``(height, width)`` as integers; refuse what is not two positive integers."""
    height, width = size if len(size) == 2 else (0, 0)
    if not (int(height) == height > 0 and int(width) == width > 0):
        raise ValueError(f"{op}: {name} must be (height, width), two positive integers, got {size}")
    return int(height), int(width)


def divisible(size: Size, divisor: int) -> Size:
    """The least ``(height, width)`` that is no smaller than ``size`` and whose sides ``divisor`` divides."""
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor


def coordinate_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the precision in which coordinates are computed: float32, or float64 where any tensor is float64."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast on a device: it would round the coordinates that matrices are multiplied with to half precision."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
