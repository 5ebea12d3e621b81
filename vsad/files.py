"""Reading and writing text, JSON, safetensors and arrays: the one place, whose errors name the file and the remedy.

Every reader takes a ``remedy``, the words that end its errors: what the user does to get a good file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text; missing folders are made."""
    path = _with_folder(path)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object; missing folders are made.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path}: must hold finite numbers, got NaN or infinity ({error})") from None
    return write_text(path, text + "\n")


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, not UTF-8, or JSON but no object.
    """
    path = _existing(path, remedy)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: must be JSON, got {error}; {remedy}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, got {error}; save it as UTF-8, or {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a JSON object, got {type(content).__name__}; {remedy}")
    return content


def write_weights(path: str | Path, weights: Mapping[str, Tensor]) -> Path:
    """Write named tensors as safetensors; missing folders are made."""
    path = _with_folder(path)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def read_weights(path: str | Path, remedy: str) -> dict[str, Tensor]:
    """Read named tensors from safetensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not safetensors.
    """
    path = _existing(path, remedy)
    try:
        weights: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: must be a safetensors file, got {error}; {remedy}") from None
    return weights


def write_array(path: str | Path, tensor: Tensor) -> Path:
    """Write a tensor as ``.npy``; missing folders are made."""
    path = _with_folder(path)
    np.save(path, tensor.numpy(force=True))
    return path


def read_array(path: str | Path, remedy: str) -> Tensor:
    """Read a ``.npy`` file as a tensor.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an array of numbers.
    """
    path = _existing(path, remedy)
    try:
        return torch.from_numpy(np.load(path))
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path}: must be a .npy array of numbers, got {error}; {remedy}") from None


def partial_folder(folder: str | Path) -> Path:
    """Make an empty folder beside ``folder`` to write into, which ``publish`` renames once it is complete."""
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def publish(partial: Path, folder: str | Path) -> None:
    """Give a complete folder its name, after its bytes are on the disk: whoever looks sees all of it or nothing."""
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    os.replace(partial, folder)


def _with_folder(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _existing(path: str | Path, remedy: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {remedy}")
    return path
