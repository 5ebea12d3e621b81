"""Latents on disk, which need not fit into memory: safetensors files of which single samples are mapped when asked."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vsad.files import atomic_folder, check_writable, in_words, read_json, sweep, write_json, write_weights
from vsad.scratch import Samples

INDEX, NAME = "index.json", "latents"
SHARD = 64
DTYPES = {"float32": torch.float32, "float16": torch.float16}
REMEDY = "write the folder anew with `write_latents`"


class LatentShards:
    """Latents of samples in a folder that ``write_latents`` wrote, read one by one.

    A file is open only while a sample is read, so memory and address space hold one shard at a time at most.

    Args:
        folder: with ``index.json`` and its shards.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the index is broken, or files are not those that it tells of.

    Example:
        >>> shards = write_latents("latents", torch.rand(5, 2, 3, 8, 8), shard_samples=2)
        >>> len(shards), shards[4].shape
        (5, torch.Size([2, 3, 8, 8]))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / INDEX, REMEDY)
        try:
            self.shape = torch.Size(index["shape"])
            self.shard_samples = index["shard_samples"]
            self.hashes = {str(name): str(value) for name, value in index["shards"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise ValueError(
                f"{self.folder / INDEX}: must hold shape, shard_samples and shards, got {type(error).__name__} "
                f"{error}; {REMEDY}"
            ) from None
        sizes = [*self.shape, self.shard_samples]
        if len(self.shape) != 5 or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(
                f"{self.folder / INDEX}: shape must be 5 positive integers and shard_samples one, got "
                f"{list(self.shape)} and {self.shard_samples!r}; {REMEDY}"
            )
        shards = -(-len(self) // self.shard_samples)
        if shards != len(self.hashes) or any(Path(name).name != name for name in self.hashes):
            raise ValueError(
                f"{self.folder / INDEX}: must name {shards} files in its folder, for {len(self)} samples of "
                f"{self.shard_samples} in each, got {len(self.hashes)}, {', '.join([*self.hashes][:3])}; {REMEDY}"
            )
        counts = [min(self.shard_samples, len(self) - first) for first in range(0, len(self), self.shard_samples)]
        self._files = [self.folder / name for name in self.hashes]
        for file, count in zip(self._files, counts):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: {REMEDY}")
            with _opened(file) as opened:
                header = opened.get_slice(NAME)
                shape, dtype = header.get_shape(), header.get_dtype()
            if shape != [count, *self.shape[1:]] or dtype not in ("F32", "F16"):
                raise ValueError(
                    f"{file}: must hold {[count, *self.shape[1:]]} numbers, float32 or float16, got {shape} {dtype}; "
                    f"{REMEDY}"
                )
        self._checked: set[Path] = set()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        """The latents ``(V, c, h, w)`` of a sample, float32; a shard is compared with its hash when first read.

        Raises:
            IndexError: there is no such sample.
            ValueError: the shard is not what was written.
        """
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(f"LatentShards: index must be an integer, got {index!r}; take samples one by one") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"LatentShards: index must be from 0 to {len(self) - 1}, got {index}")
        shard, row = divmod(index % len(self), self.shard_samples)
        file = self._files[shard]
        with _opened(file) as opened:
            if file not in self._checked:
                if _hash(opened.get_tensor(NAME)) != self.hashes[file.name]:
                    raise ValueError(f"{file}: must hold what was written, got other numbers; {REMEDY}")
                self._checked.add(file)
            sample: Tensor = opened.get_slice(NAME)[row]
            return sample.to(torch.float32, copy=True)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with in_words(file, REMEDY), safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ValueError(f"{file}: must be a safetensors file with {NAME!r}, got {error}; {REMEDY}") from None


def _hash(shard: Tensor) -> str:
    return hashlib.sha256(shard.contiguous().numpy().data).hexdigest()


def write_latents(
    folder: str | Path, latents: Iterable[Tensor], shard_samples: int = SHARD, *, dtype: torch.dtype = torch.float32
) -> LatentShards:
    """Write the latents of samples, of which at most ``shard_samples`` are in memory at a time.

    The folder appears when it is complete: what was interrupted leaves nothing that could be read by mistake.

    Args:
        folder: new or empty.
        latents: of each sample ``(V, c, h, w)``, all of one shape.
        shard_samples: samples in a file.
        dtype: float32 or float16, of which 65504 is the greatest number.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: there are no samples, their shapes differ, their values are not finite as ``dtype``, or it or
            ``shard_samples`` is none of the above.
    """
    folder = Path(folder)
    if dtype not in DTYPES.values() or shard_samples < 1:
        raise ValueError(
            f"write_latents: dtype must be one of {list(DTYPES)} and shard_samples at least 1, "
            f"got {dtype} and {shard_samples}"
        )
    check_writable(folder)
    if folder.exists():
        sweep(folder)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder}: must be a new or empty folder; delete it or name another")
    with atomic_folder(folder) as partial:
        count, shape = 0, torch.Size()
        hashes: dict[str, str] = {}
        for chunk in _chunks(latents, shard_samples):
            shape = shape or chunk[0].shape
            wrong = next((sample.shape for sample in chunk if sample.shape != shape or sample.ndim != 4), None)
            if wrong is not None:
                raise ValueError(f"write_latents: latents must be (V, c, h, w) of one shape, {shape}, got {wrong}")
            shard = torch.stack(chunk).to("cpu", dtype)  # (n, V, c, h, w)
            if not shard.isfinite().all():
                raise ValueError(
                    f"write_latents: latents must be finite as {dtype}, got NaN or infinity; choose float32"
                )
            file = write_weights(partial / f"shard-{len(hashes):05d}.safetensors", {NAME: shard})
            hashes[file.name] = _hash(shard)
            count += len(chunk)
        if not count:
            raise ValueError("write_latents: latents must be of at least one sample, got none")
        index: dict[str, Any] = {"shape": [count, *shape], "shard_samples": shard_samples, "shards": hashes}
        write_json(partial / INDEX, index)
    return LatentShards(folder)


def fingerprint(latents: Samples) -> str:
    """A hash by which latents are known again, on disk or in memory: that of what ``write_latents`` hashes of them."""
    hashed = hashlib.sha256(str(tuple(latents.shape)).encode())
    if isinstance(latents, LatentShards):
        hashes = list(latents.hashes.values())
    else:
        samples = (sample.detach().to("cpu", torch.float32) for sample in latents)
        hashes = [_hash(torch.stack(chunk)) for chunk in _chunks(samples, SHARD)]
    hashed.update("".join(hashes).encode())
    return hashed.hexdigest()


def _chunks(samples: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield the next ``size`` samples, and the next, and what is left."""
    each = iter(samples)
    return iter(lambda: list(islice(each, size)), [])
