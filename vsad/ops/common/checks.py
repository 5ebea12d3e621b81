"""Checks that every public operator makes: types, shapes by letters, dtypes, devices. Metadata only, never values."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Real
from typing import cast

import torch
from torch import Tensor


def check_tensor(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        kind, remedy = (
            ("a nested tensor", ".to_padded_tensor(0.0)") if value.is_nested else (value.layout, ".to_dense()")
        )
        raise TypeError(f"{op}: {name} must be a strided tensor, got {kind}; call {remedy}")


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
        letters, shape = pattern.split(), tensor.shape
        if len(shape) != len(letters):
            raise ValueError(f"{op}: {name} must be [{pattern}], got {list(shape)}")
        for letter, size in zip(letters, shape):
            want = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != want:
                rule = "" if letter.isdigit() else f" with {letter}={want}"
                raise ValueError(f"{op}: {name} must be [{pattern}]{rule}, got {list(shape)}")
    return sizes


def check_same(op: str, **named: Tensor) -> None:
    """All tensors floating point, of one dtype, on one device."""
    (first_name, first), *rest = named.items()
    check_floating(op, first_name, first)
    for name, tensor in rest:
        if tensor.dtype != first.dtype:
            raise ValueError(
                f"{op}: {name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}; "
                f"call .to({first.dtype})"
            )
    check_device(op, **named)


def check_device(op: str, **named: Tensor) -> None:
    (first_name, first), *rest = named.items()
    for name, tensor in rest:
        if tensor.device != first.device:
            raise ValueError(
                f"{op}: {name} must be on the device of {first_name}, {first.device}, got {tensor.device}; "
                f"call .to({str(first.device)!r})"
            )


def check_choice(op: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{op}: {name} must be one of {list(choices)}, got {value!r}")


def check_flag(op: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {value!r}")


def integer(op: str, name: str, value: object) -> int:
    """The value as an int. What would have to be rounded, a flag or a tensor is an error."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return cast(int, value)
    if not isinstance(value, (bool, Tensor)):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{op}: {name} must be an integer, got {value!r}; pass a Python int")


def number(op: str, name: str, value: object, remedy: str) -> float:
    """The value as a float; ``remedy`` is for who passes a tensor."""
    if isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a number, got a tensor; {remedy}")
    if isinstance(value, bool) or not isinstance(value, (Real, torch.SymFloat)):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}; pass a Python float")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} must be a number that fits a float, got one of too many digits") from None


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Coordinates, logits and sums live in float32, or in float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_deterministic(op: str, wanted: bool | None) -> bool:
    """Whether a backward must give the same bits on every run: as wanted, or for None as torch is set."""
    if wanted is None:
        return torch.are_deterministic_algorithms_enabled()
    check_flag(op, "deterministic", wanted)
    return wanted


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on for their device, else as they are."""
    return _cast(tensors, torch.get_autocast_dtype(tensors[0].device.type)) if _autocasts(tensors) else tensors


def autocast_to_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32 where autocast is on for their device, else as they are.

    For operators whose result must not depend on the rounding of their input, as ``torch.cdist`` and ``grid_sample``.
    """
    return _cast(tensors, torch.float32) if _autocasts(tensors) else tensors


# Asked once, because torch.compile cannot ask before torch 2.12. Other devices refuse to say whether autocast is on.
AUTOCAST_DEVICES = tuple(
    device for device in ("cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu") if torch.amp.is_autocast_available(device)
)


def _autocasts(tensors: tuple[Tensor, ...]) -> bool:
    device = tensors[0].device.type
    return device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def _cast(tensors: Iterable[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Floating point tensors below float64 in the dtype; the others as they are."""
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)
