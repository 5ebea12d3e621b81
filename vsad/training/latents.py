"""The latents of samples, made once: the autoencoder is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vsad.models import VALDM


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
    model.eval()
    raw = torch.cat([model.encode_raw(sample[None]) for sample in images])
    model.learn_latent_statistics(raw)
    return model.standardize(raw)


@torch.no_grad()
def encode(model: VALDM, images: Iterable[Tensor]) -> Tensor:
    """Standardized latents ``(S, V, c, h, w)`` of the samples' ``images (V, 3, H, W)``."""
    return torch.stack([*encodings(model, images)])


@torch.no_grad()
def encodings(model: VALDM, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the standardized latents ``(V, c, h, w)`` of every sample's ``images (V, 3, H, W)``."""
    model.eval()
    for sample in images:
        yield model.encode(sample[None])[0]
