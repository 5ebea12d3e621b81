"""Named tensors as safetensors, and arrays as ``.npy``. Neither holds code: nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

from vsad.files.atomic import atomic, write_bytes
from vsad.files.words import check_regular, in_words

if TYPE_CHECKING:  # torch takes a second to import, and configurations need none
    from torch import Tensor

# The length of the names, shapes and places of all tensors in front of them, in bytes: thousands of tensors.
_MAX_HEADER = 16 << 20
_MAX_BYTES = 64 << 30


def write_weights(path: str | Path, weights: Mapping[str, Tensor]) -> Path:
    """Write named tensors as safetensors."""
    from safetensors.torch import save_file

    with atomic(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
    return Path(path)


def read_weights(path: str | Path, remedy: str, max_bytes: int = _MAX_BYTES) -> dict[str, Tensor]:
    """Read named tensors from safetensors.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not safetensors, or larger than ``max_bytes``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    with in_words(path, remedy):
        check_regular(path, remedy)
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if size > max_bytes:
            raise ValueError(f"{path}: must be at most {max_bytes:,} bytes, got {size:,}; {remedy}")
        if header > min(size, _MAX_HEADER):
            raise ValueError(f"{path}: must be a safetensors file, got another or a part of one; {remedy}")
        try:
            weights: dict[str, Tensor] = load_file(path)
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path}: must be a safetensors file, got {error}; {remedy}") from None
    return weights


def write_array(path: str | Path, tensor: Tensor) -> Path:
    """Write a tensor as ``.npy``."""
    import numpy as np

    file = BytesIO()  # where numpy writes into a file itself, its errors do not say what was wrong
    np.save(file, tensor.numpy(force=True), allow_pickle=False)
    return write_bytes(path, file.getvalue())


def read_array(path: str | Path, remedy: str, max_bytes: int = _MAX_BYTES) -> Tensor:
    """Read a ``.npy`` file as a tensor.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not an array of numbers, or larger than ``max_bytes``.
    """
    import numpy as np
    import torch
    from numpy.lib import format as npy

    path = Path(path)
    with in_words(path, remedy):
        check_regular(path, remedy)
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                version = npy.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"version {version}")
                read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read_header(file)
                # Told from the header before memory is asked for.
                told = math.prod(shape) * dtype.itemsize
                fits = all(0 <= length < 1 << 62 for length in shape) and told == size - file.tell()
                if dtype.hasobject or not fits:
                    raise ValueError(f"{size:,} bytes for {dtype} {shape}")
                if size > max_bytes:
                    raise ValueError(f"{size:,} bytes, more than {max_bytes:,}")
                file.seek(0)
                array = np.load(file, allow_pickle=False)
            return torch.from_numpy(np.asarray(array, array.dtype.newbyteorder("=")))
        except (ValueError, TypeError, EOFError, SyntaxError, TokenError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: must be a .npy array of numbers, got {error}; {remedy}") from None
