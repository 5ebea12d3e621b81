"""Where a lamp's reflection hides the surface, and which cameras show nothing of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import compress

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.detection.placement import Placement
from vsad.detection.precision import Unrounded
from vsad.scratch import Scratch

# A place that is saturated in more than this share of the normal samples is bright by itself.
_BRIGHT = 0.2
# Of full scale: what is brighter than usual by this, next to saturated light, is lit by the same reflection.
_HALO = 0.12
# Features this near to what a sample does not show have seen some of it, in feature pixels.
_REACH = 1
# Of full scale: darker places say nothing of a view's exposure.
_DARK = 0.05
# A picture whose contrast is less than this of the usual one shows nothing: samples have 0.9 to 1.5 of it, another
# product's 0.5 at least. Less than so much of full scale is no contrast.
_FLAT, _NO_CONTRAST = 0.1, 0.01
# Numbers whose medians are looked for together.
_AT_ONCE = 1 << 22


class Glare(Unrounded):
    """Tells saturated light that is not normal at its place, and the halo around it.

    A lamp's reflection is saturated in its middle only. What lies next to that and is brighter than usual belongs to
    it: the mask grows from the saturated places through all that exceed the median of the normal samples, which is
    scaled to the sample's exposure.

    Args:
        bright: ``(V, h, w)`` bool, where saturated light is normal.
        usual: ``(V, h, w)``, the normal samples' median brightness in [0, 1]; NaN where none shows the surface.
    """

    bright: Tensor
    usual: Tensor

    def __init__(self, bright: Tensor, usual: Tensor) -> None:
        super().__init__()
        self.register_buffer("bright", bright)
        self.register_buffer("usual", usual)

    @classmethod
    def fit(cls, normal: Iterable[Placement], size: Sequence[int]) -> Glare:
        """Learn what is normal from the placements of normal samples, at a ``size`` of features."""
        dazzled, shown = torch.tensor(0), Scratch()
        for placement in normal:
            dazzled = dazzled + any_pixel(placement.dazzled, size).float()
            shown.append(_light(placement, size).where(_inside(placement, size), torch.nan))
        return cls(dazzled / len(shown) > _BRIGHT, _nanmedian(shown))

    def forward(self, placement: Placement) -> Tensor:
        """Where the surface is hidden from a view, ``(V, h, w)`` bool."""
        size = self.usual.shape[-2:]
        core = any_pixel(placement.dazzled, size) & ~self.bright
        if core.device.type == "cpu" and not core.any():  # elsewhere to look would wait for the device
            return core
        light, inside = _light(placement, size), _inside(placement, size)
        usual = self.usual * _exposure(light, self.usual, inside)
        return _grown(core, inside & (light - usual > _HALO))

    def dead(self, placement: Placement) -> Tensor:
        """Which views show one brightness all over where the normal samples' median does not, ``(V,)`` bool.

        The camera is dead, saturated or covered, whatever brightness that is. The noise of a sensor is averaged away.
        """
        size = self.usual.shape[-2:]
        where = _inside(placement, size) & self.usual.isfinite()
        contrast, usual = (_contrast(light, where) for light in (_light(placement, size), self.usual))
        return (usual > _NO_CONTRAST) & (contrast < _FLAT * usual)

    def warn_of_flat(self, views: Sequence[str]) -> None:
        """Warn of the views, by name, that show one brightness all over in the normal samples too."""
        flat = ~(_contrast(self.usual, self.usual.isfinite()) > _NO_CONTRAST)
        for view in compress(views, flat.tolist()):
            warnings.warn(
                f"detector: {view} shows one brightness all over in the normal samples: its camera may be dead, "
                "saturated or covered; look at its pictures",
                stacklevel=3,
            )


def _contrast(light: Tensor, where: Tensor) -> Tensor:
    """The standard deviation ``(V,)`` of every view's brightness at some places, NaN where there are none."""
    count = where.flatten(1).sum(1)
    mean = light.where(where, 0).flatten(1).sum(1) / count
    return ((light - mean[:, None, None]).where(where, 0).square().flatten(1).sum(1) / count).sqrt()


def _nanmedian(samples: Scratch) -> Tensor:
    """The median of the samples at every place, NaN aside, of as many places at once as memory shall hold."""
    count = max(1, _AT_ONCE // len(samples))
    places = range(0, samples[0].numel(), count)
    parts = (torch.stack([each.flatten()[i : i + count].clone() for each in samples]) for i in places)
    return torch.cat([part.nanmedian(0).values for part in parts]).view(samples.shape[1:])


def _exposure(light: Tensor, usual: Tensor, inside: Tensor) -> Tensor:
    """By how much every view of a sample is brighter than usual, ``(V, 1, 1)``."""
    ratio = (light / usual).where(inside & (usual > _DARK), torch.nan)
    return ratio.flatten(1).nanmedian(1).values.nan_to_num(1.0)[:, None, None]


def _grown(core: Tensor, through: Tensor) -> Tensor:
    """``core`` and every place that is joined to it through places of a mask, all ``(V, h, w)`` bool.

    A way of more than h + w steps is not gone to its end.
    """
    for _ in range(sum(core.shape[-2:])):
        wider = core | (F.max_pool2d(core.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0) & through
        if core.device.type == "cpu" and torch.equal(wider, core):
            break
        core = wider
    return core


def _light(placement: Placement, size: Sequence[int]) -> Tensor:
    """Mean brightness in [0, 1] at a size, ``(V, *size)``."""
    return F.adaptive_avg_pool2d(placement.light.float(), (size[0], size[1])) / 255


def covered(placement: Placement, size: Sequence[int]) -> Tensor:
    """Where the features of a size have seen nothing but the sample's own pixels, ``(V, *size)`` bool."""
    outside = any_pixel(~placement.inside, size).float()
    return F.max_pool2d(outside[:, None], 2 * _REACH + 1, stride=1, padding=_REACH)[:, 0] == 0


def _inside(placement: Placement, size: Sequence[int]) -> Tensor:
    """Where all pixels are the sample's own, ``(V, *size)`` bool."""
    return ~any_pixel(~placement.inside, size)


def any_pixel(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Where any pixel of ``mask (V, H, W)`` lies in a pixel of another ``size``, ``(V, *size)`` bool."""
    if mask.shape[-2:] == tuple(size):
        return mask
    if mask.shape[-2] < size[0]:
        return F.interpolate(mask[None].float(), tuple(size), mode="nearest")[0] > 0
    if mask.shape[-2] % size[0] == 0 and mask.shape[-1] % size[1] == 0:  # joining rows and columns is much faster
        rows = reduce(torch.logical_or, mask.unflatten(-2, (size[0], -1)).unbind(-2))
        return reduce(torch.logical_or, rows.unflatten(-1, (size[1], -1)).unbind(-1))
    return F.adaptive_max_pool2d(mask.float(), tuple(size)) > 0
