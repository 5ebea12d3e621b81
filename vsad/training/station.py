"""What is trained on: the latents of a station's normal samples, its rig, and which product it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from vsad.geometry import Rig
from vsad.models import VALDM
from vsad.models.checks import check_aspect
from vsad.scratch import Samples


class Station(NamedTuple):
    """Normal samples of one product, seen by one rig.

    Args:
        latents: standardized latents ``(S, V, c, h, w)``, in memory or on disk.
        rig: rig of the V views.
        category: index of the product among the model's categories.
    """

    latents: Samples
    rig: Rig
    category: int = 0


def check_stations(model: VALDM, stations: Station | Sequence[Station]) -> list[Station]:
    """The stations as a list.

    Raises:
        TypeError: latents are no samples, or a rig is none.
        ValueError: there is none, one has no samples, or latents, rig and category do not fit the model or each other.
    """
    found = [stations] if isinstance(stations, Station) else list(stations)
    if not found:
        raise ValueError("train: stations must be at least one, got none")
    channels = model.vae.config["latent_channels"]
    categories = max(1, len(model.config.categories))
    for index, (latents, rig, category) in enumerate(found):
        name = f"train: stations[{index}]"
        if not isinstance(getattr(latents, "shape", None), torch.Size):
            raise TypeError(
                f"{name}.latents must be a tensor, or samples on disk, got {type(latents).__name__}; stack them"
            )
        if not isinstance(rig, Rig):
            raise TypeError(f"{name}.rig must be a vsad.geometry.Rig, got {type(rig).__name__}; calibrate or load one")
        views = len(rig.views)
        shape = tuple(latents.shape)
        if len(shape) != 5 or shape[0] < 1 or shape[1:3] != (views, channels):
            raise ValueError(
                f"{name}.latents must be (S, V, c, h, w) with S at least 1, V = {views} as the rig has views and "
                f"c = {channels} as the autoencoder has channels, got {shape}; encode the samples of this station"
            )
        check_aspect(f"{name}.latents", (shape[-2], shape[-1]), rig)
        if not (isinstance(category, int) and 0 <= category < categories):
            raise ValueError(
                f"{name}.category must be an integer from 0 to {categories - 1}, got {category!r}; name "
                "the products in the model's categories"
            )
    return found
