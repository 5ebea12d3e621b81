"""The latents of samples, made once: the autoencoder is frozen."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from vsad.models import VALDM
from vsad.scratch import Samples, Scratch
from vsad.training.processes import check_shared, once, processes
from vsad.training.shards import INDEX, LatentShards, write_latents


@torch.no_grad()
def learn_latents(model: VALDM, images: Iterable[Tensor]) -> Tensor:
    """Standardize the model's latents on normal samples, now and in every later ``encode``.

    Every latent channel of these samples gets mean 0 and deviation 1.

    Args:
        model: its latent statistics are set.
        images: images of each normal sample, ``(V, 3, H, W)``.

    Returns:
        The latents that ``encode`` gives of these samples from now on, ``(S, V, c, h, w)``.
    """
    return torch.stack([*learn_encodings(model, images)])


@torch.no_grad()
def learn_encodings(model: VALDM, images: Iterable[Tensor], folder: Path | None = None) -> Samples:
    """What ``learn_latents`` does and returns, with the latents on disk.

    Args:
        model, images: as there.
        folder: where the main one of several processes writes the latents, which the others read; it replaces what is
            there. Without it, and in a process that trains alone, they are in a temporary file.

    Raises:
        FileNotFoundError: the folder is not the same in all processes.
    """
    if folder is None or processes().num_processes == 1:
        return Scratch(_learned(model, images))

    def encoded() -> tuple[Tensor, Tensor]:
        shutil.rmtree(folder, ignore_errors=True)
        write_latents(folder, _learned(model, images))
        return model.adapter.latent_mean.cpu(), model.adapter.latent_deviation.cpu()

    mean, deviation = once(encoded)
    check_shared(folder / INDEX)
    model.adapter.latent_mean.copy_(mean)
    model.adapter.latent_deviation.copy_(deviation)
    return LatentShards(folder)


def _learned(model: VALDM, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """Let the model standardize the latents of samples, which are in a temporary file, and yield them so."""
    model.eval()
    raw = Scratch(model.encode_raw(sample[None])[0] for sample in images)
    learn_statistics(model, raw)
    return (model.standardize(sample) for sample in raw)


@torch.no_grad()
def learn_statistics(model: VALDM, raw: Iterable[Tensor]) -> None:
    """Let the model standardize latents by mean and deviation of those of normal samples.

    Args:
        model: its latent statistics are set.
        raw: the samples' latents as ``model.encode_raw`` gives them, ``(V, c, h, w)`` each.
    """
    total, squares, count = torch.tensor(0.0), torch.tensor(0.0), 0
    for sample in raw:
        values = sample.double().transpose(0, 1).flatten(1)  # (c, V h w)
        total, squares = total + values.sum(1), squares + values.square().sum(1)
        count += values.shape[1]
    mean = total / count
    model.set_latent_statistics(mean, (squares / count - mean.square()).clamp(min=0).sqrt())


@torch.no_grad()
def encode(model: VALDM, images: Iterable[Tensor]) -> Tensor:
    """Standardized latents ``(S, V, c, h, w)`` of the samples' ``images (V, 3, H, W)``."""
    return torch.stack([*encodings(model, images)])


@torch.no_grad()
def encodings(model: VALDM, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield what ``encode`` gives, sample by sample."""
    model.eval()
    for sample in images:
        yield model.encode(sample[None])[0]
