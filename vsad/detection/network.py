"""Frozen networks, whose feature maps are levels beside the model's own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vsad.checks import check_images
from vsad.detection.network_name import CONTRAST, REMEDY, check_network_name

# What most networks for images were trained on: colors of this mean and deviation became 0 and 1.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the maps of a timm model those of these strides are taken: finer ones hold no pattern, coarser ones no place.
_STRIDES = (4, 8)


class FrozenNetwork(nn.Module):
    """Any network that returns feature maps, frozen: every map is a level of features.

    Args:
        network: takes images ``(N, 3, H, W)`` and returns a map ``(N, C, h, w)`` or several.
        mean, deviation: of each color, by which images in [0, 1] are standardized before.
        name: by which ``load_network`` makes it again; None where it cannot.

    Shape: ``(V, 3, H, W) -> [(V, C, h, w), ...]``.

    Example:
        >>> network = FrozenNetwork(nn.Conv2d(3, 8, 3, stride=4))
        >>> [tuple(level.shape) for level in network(torch.rand(2, 3, 64, 64))]
        [(2, 8, 16, 16)]
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        deviation: Sequence[float] = IMAGENET_DEVIATION,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.network, self.name = network.eval().requires_grad_(False), name
        self.mean, self.deviation = (tuple(map(float, colors)) for colors in (mean, deviation))

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of one sample's ``images (V, 3, H, W)`` in [0, 1].

        Raises:
            TypeError: the images are no tensor of floating point, or the network returns something else.
            ValueError: values are not in [0, 1], or the network does not take images of that size.
        """
        check_images("network", images, ("V", 3, "H", "W"))
        if getattr(self.network.forward, "__name__", "") == "_forward_unimplemented":  # as nn.Module's own is called
            raise TypeError(f"network: {self._called} does not say what it makes of images; give it a forward")
        images = images.to(self._anywhere())
        mean, deviation = (images.new_tensor(colors)[:, None, None] for colors in (self.mean, self.deviation))
        try:
            found = self.network((images - mean) / deviation)
        except (AssertionError, RuntimeError) as error:
            height, width = images.shape[-2:]
            raise ValueError(
                f"network: {self._called} failed on images of {height} x {width}, {error}; give images of another size "
                f"or name another network"
            ) from error
        maps = list(found) if isinstance(found, (list, tuple)) else [found]
        if not maps or any(not isinstance(m, Tensor) or m.ndim != 4 or len(m) != len(images) for m in maps):
            shapes = [list(m.shape) if isinstance(m, Tensor) else type(m).__name__ for m in maps]
            raise TypeError(f"network: it must return maps (N, C, h, w) of {len(images)} images, got {shapes}; wrap it")
        return [m.float() for m in maps]

    def _anywhere(self) -> torch.device | None:
        """The network's device; None where it has no weights."""
        tensor = next((t for tensors in (self.parameters(), self.buffers()) for t in tensors), None)
        return None if tensor is None else tensor.device

    @property
    def _called(self) -> str:
        return self.name or type(self.network).__name__

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay in evaluation mode."""
        return super().train(False)


def load_network(name: str) -> FrozenNetwork:
    """Make a frozen network by name.

    Args:
        name: ``contrast`` for ``vsad.models.LocalContrast``; ``timm:MODEL`` for the features of a model of timm with
            its pretrained weights, where timm is installed; ``MODULE:FUNCTION`` for a function of yours that returns a
            ``FrozenNetwork``, or a module that takes images standardized as for ImageNet; or several joined by ``+``.

    Raises:
        ValueError: there is no such network; the message says why.
    """
    check_network_name(name)
    if "+" in name:
        return _raw(_Several([load_network(part) for part in name.split("+")]), name)
    if name == CONTRAST:
        from vsad.models import LocalContrast  # diffusers takes seconds to import

        return _raw(LocalContrast(), name)
    module, _, function = name.partition(":")
    try:
        if module == "timm":
            return _timm(function, name)
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:  # whatever the user's module does
        raise ValueError(f"network: {name!r} cannot be loaded, {_said(error)}; {REMEDY}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"network: {name!r} must return a network, got {type(made).__name__}; {REMEDY}")
    network = made if isinstance(made, FrozenNetwork) else FrozenNetwork(made)
    network.name = name
    return network


def _said(error: Exception) -> str:
    """What an error says; those of a person's own code need their kind too."""
    if isinstance(error, (ImportError, AttributeError, RuntimeError, OSError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


class _Several(nn.Module):
    """The maps of several frozen networks, one after the other."""

    def __init__(self, networks: Sequence[FrozenNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level for network in self.networks for level in network(images)]


class _ChannelsFirst(nn.Module):
    """The maps ``(N, C, h, w)`` of a network that gives ``(N, h, w, C)``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level.movedim(-1, 1) for level in self.network(images)]


def _raw(network: nn.Module, name: str) -> FrozenNetwork:
    """A network that takes images in [0, 1] as they are."""
    return FrozenNetwork(network, mean=(0, 0, 0), deviation=(1, 1, 1), name=name)


def _timm(model: str, name: str) -> FrozenNetwork:
    """The maps of strides 4 and 8 of a model of timm."""
    import timm

    strides = timm.create_model(model, features_only=True).feature_info.reduction()
    indices = [index for index, stride in enumerate(strides) if stride in _STRIDES]
    if not indices:
        raise ValueError(f"its maps have strides {strides} and none 4 or 8, as those of most convolutional models do")
    network = timm.create_model(model, pretrained=True, features_only=True, out_indices=indices)
    colors = timm.data.resolve_model_data_config(network)
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        network = _ChannelsFirst(network)
    return FrozenNetwork(network, mean=colors["mean"], deviation=colors["std"], name=name)
