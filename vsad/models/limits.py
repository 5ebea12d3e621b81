"""What a model's files may ask for: a configuration of a few bytes must not fill the memory, nor build for hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

# Of the models there are, none has as many layers in a block, nor as many steps of noise.
_MAX_LAYERS, _MAX_NUMBER = 128, 100_000


def check_counts(content: Mapping[str, Any]) -> None:
    """Refuse numbers in a configuration that no model has.

    Raises:
        ValueError: one is too large; the message names it.
    """
    for name, number in _numbers("", content):
        most = _MAX_LAYERS if "layers" in name else _MAX_NUMBER
        if number > most:
            raise ValueError(f"{name} {number}, which is more than {most}")


def check_size(kind: Any, folder: Path, content: Mapping[str, Any]) -> None:
    """Refuse a configuration of more weights than the safetensors files beside it hold bytes, before any is made.

    Args:
        kind: of the model, one of diffusers' or transformers'.
        folder: of its files.
        content: its configuration.

    Raises:
        OSError: a file is not safetensors.
        ValueError: the weights are too many.
    """
    check_counts(content)
    held = 0
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt"):
                held += file.stat().st_size
        except SafetensorError as error:
            raise OSError(str(error)) from None
    if not held:
        return  # that they are missing is said where they are read
    with torch.device("meta"):
        of_transformers = hasattr(kind, "config_class")
        model: nn.Module = kind(kind.config_class.from_dict(content)) if of_transformers else kind.from_config(content)
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > held:
        raise ValueError(f"{asked:,} weights in a configuration whose files hold {held:,} bytes")


def check_finite(model: nn.Module) -> None:
    """Refuse weights of which one is NaN or infinite: every picture would be neither good nor bad.

    Raises:
        ValueError: names the first such weight.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"{name} with NaN or infinity")


def _numbers(name: str, content: Any) -> Iterator[tuple[str, float]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _numbers(str(key), value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _numbers(name, value)
    elif isinstance(content, (int, float)):
        yield name, content
