"""What must hold of a detector's stored tensors: a wrong one would not fail, but judge wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vsad.detection.config import DetectorConfig

Weights = Mapping[str, Tensor]


def level_count(weights: Weights) -> int:
    """The number of levels, which are numbered from 0.

    Raises:
        ValueError: there is none, or one is left out.
    """
    found = {name.split(".")[1] for name in weights if name.startswith("levels.")}
    if not found or found != {str(index) for index in range(len(found))}:
        raise ValueError(f"levels {', '.join(sorted(found)[:5]) or 'none'}")
    return len(found)


def check_stored(weights: Weights, config: DetectorConfig, views: int, latent_channels: int) -> None:
    """Refuse tensors of other shapes and kinds than a detector of so many views has, and those that are not finite.

    Raises:
        KeyError: one is missing.
        ValueError: one is wrong; the message names it.
    """
    _check_shape("reach", weights["reach"], (2, views))
    bright = weights["glare.bright"]
    _check_shape("glare.bright", bright, (views, *bright.shape[1:3]))
    _check_shape("glare.usual", weights["glare.usual"], bright.shape)
    for index in range(level_count(weights)):
        name = f"levels.{index}"
        mean = weights[f"{name}.mean"]
        size = mean.shape[1:3]
        for part in ("mean", "deviation", "known"):
            _check_shape(f"{name}.{part}", weights[f"{name}.{part}"], (views, *size))
        if not (weights[f"{name}.deviation"] > 0).all():
            raise ValueError(f"{name}.deviation that is not positive")
        _MEMORIES[config.memory](weights, f"{name}.memory", views, size)
    _check_shape("levels.0.memory.transform", weights["levels.0.memory.transform"], (latent_channels, latent_channels))
    for name, weight in weights.items():
        # Where no normal sample shows the surface, nothing is known of its brightness.
        finite = not weight.isinf().any() if name == "glare.usual" else weight.isfinite().all()
        if not finite:
            raise ValueError(f"{name} with NaN or infinity")
    if any(name.startswith("registration.") for name in weights):
        _check_registration(weights, views)


def _check_aligned(weights: Weights, name: str, views: int, size: torch.Size) -> None:
    key, transform = weights[f"{name}.key"], weights[f"{name}.transform"]
    _check_shape(f"{name}.transform", transform, (len(transform), len(transform)))
    _check_shape(f"{name}.key", key, (views, key.shape[1], len(transform) + 1, *size))


def _check_prototypes(weights: Weights, name: str, views: int, size: torch.Size) -> None:
    bank, transform, unknown = (weights[f"{name}.{part}"] for part in ("prototypes", "transform", "unknown"))
    _check_shape(f"{name}.transform", transform, (len(transform), len(transform)))
    _check_shape(f"{name}.prototypes", bank, (views, *bank.shape[1:3], len(transform)))
    _check_shape(f"{name}.unknown", unknown, (bank.shape[1], *unknown.shape[1:2]), torch.int64)


_MEMORIES: dict[str, Callable[[Weights, str, int, torch.Size], None]] = {
    "aligned": _check_aligned,
    "prototypes": _check_prototypes,
}


def _check_registration(weights: Weights, views: int) -> None:
    part = {name.removeprefix("registration."): w for name, w in weights.items() if name.startswith("registration.")}
    _check_shape("registration.size", part["size"], (2,), torch.int64)
    _check_shape("registration.margin", part["margin"], (), torch.int64)
    _check_shape("registration.counts", part["counts"], (views,), torch.int64)
    _check_shape("registration.gray", part["gray"], (views, *part["gray"].shape[1:3]), torch.uint8)
    _check_shape("registration.still", part["still"], part["gray"].shape, torch.bool)
    features = part["points"].shape[1] if part["points"].ndim == 3 else 0
    _check_shape("registration.points", part["points"], (views, features, 3))
    _check_shape("registration.descriptors", part["descriptors"], (views, features, 128))
    least, most = part["counts"].aminmax()
    side = int(part["size"].min())
    if not (side > 0 and 0 <= int(part["margin"]) <= int(part["size"].max()) and 0 <= least <= most <= features):
        raise ValueError("registration whose size, margin and counts do not fit its pictures")


def _check_shape(name: str, weight: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    if tuple(weight.shape) != tuple(shape) or 0 in weight.shape[:1]:
        raise ValueError(f"{name} of shape {list(weight.shape)}, not {list(shape)}")
    if dtype is not None and weight.dtype != dtype:
        raise ValueError(f"{name} of {weight.dtype}, not {dtype}")
