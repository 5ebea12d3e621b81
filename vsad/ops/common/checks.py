"""Checks that every public operator makes: shapes by letters, dtypes, devices. Metadata only, never values."""

from __future__ import annotations

import torch
from torch import Tensor


def check_tensor(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{op}: {name} must be floating point, got {tensor.dtype}; call .float()")


def check_shapes(op: str, **named: tuple[Tensor, str]) -> dict[str, int]:
    """Match tensors against patterns such as ``"B V C H W"``; a letter means one size everywhere, a digit itself.

    Returns:
        The size that each letter stands for.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, pattern) in named.items():
        check_tensor(op, name, tensor)
        letters = pattern.split()
        shape = list(tensor.shape)
        if len(shape) != len(letters):
            raise ValueError(f"{op}: {name} must be [{pattern}], got {shape}")
        for letter, size in zip(letters, shape):
            want = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != want:
                rule = "" if letter.isdigit() else f" with {letter}={want}"
                raise ValueError(f"{op}: {name} must be [{pattern}]{rule}, got {shape}")
    return sizes


def check_same(op: str, **named: Tensor) -> None:
    """All tensors floating point, of one dtype, on one device."""
    (first_name, first), *rest = named.items()
    if not first.is_floating_point():
        raise ValueError(f"{op}: {first_name} must be a floating point tensor, got {first.dtype}; call .float()")
    for name, tensor in rest:
        if tensor.dtype != first.dtype:
            raise ValueError(f"{op}: {name} must have {first_name}'s dtype {first.dtype}, got {tensor.dtype}")
    check_device(op, **named)


def check_device(op: str, **named: Tensor) -> None:
    (first_name, first), *rest = named.items()
    for name, tensor in rest:
        if tensor.device != first.device:
            raise ValueError(
                f"{op}: {name} must be on {first_name}'s device {first.device}, got {tensor.device}; move it with .to()"
            )


def check_choice(op: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {list(choices)}, got {value!r}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Coordinates, logits and sums live in float32, or in float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_deterministic(wanted: bool | None) -> bool:
    """Whether a backward must give the same bits on every run: as wanted, or for None as torch is set."""
    return torch.are_deterministic_algorithms_enabled() if wanted is None else wanted


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on for their device, else as they are."""
    device = tensors[0].device.type if isinstance(tensors[0], Tensor) else "cpu"
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)
