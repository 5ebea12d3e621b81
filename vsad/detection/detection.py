"""What a detector says of one sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Where so large a share of a view is not judged, nothing is.
_NOTHING = 0.999


def is_unjudged(unjudged: Iterable[float | None] | Tensor | None) -> bool:
    """Whether no view judges anything of a sample; ``unjudged`` as in ``is_defect``."""
    shares = [] if unjudged is None else [float(share or 0) for share in unjudged]
    return bool(shares) and min(shares) >= _NOTHING


def is_defect(score: float | Tensor, threshold: float, unjudged: Iterable[float | None] | Tensor | None = None) -> bool:
    """Whether a sample calls for a verdict of DEFECT: its score is at or above the threshold or no number, or nobody
    judges any of it.

    What a dead camera or a fault of the device makes of a sample must never pass as good.

    Args:
        score: the sample's.
        threshold: the detector's.
        unjudged: the share of every view that no view judges; None where all is judged.
    """
    return not float(score) < threshold or is_unjudged(unjudged)


class Detection(NamedTuple):
    """What the detector says of one sample.

    ``maps (V, H, W)``: how far from normal, 1 being the highest that a view of a normal sample reaches on average;
    ``view_scores (V,)``: their maxima, without what only other views know at the rim; ``sample_score ()``: the maps'
    maximum. All float32. ``reason`` says why the sample was judged where it lay, at a station whose samples are
    registered; else it is None. ``unjudged (V,)`` is the share of each picture that no view judges, because it lies at
    the rim of the pictures, too few normal samples show it or a reflection hides it; its maps go on there as they are
    beside it.
    """

    maps: Tensor
    view_scores: Tensor
    sample_score: Tensor
    reason: str | None = None
    unjudged: Tensor | None = None

    @classmethod
    def of(
        cls,
        maps: Tensor,
        size: tuple[int, int],
        reason: str | None = None,
        unjudged: Tensor | None = None,
        hearsay: Tensor | None = None,
        shown: tuple[int, int] | None = None,
    ) -> Detection:
        """Resize ``maps (V, h, w)`` to the images' ``size`` and take the maxima, a view's without its ``hearsay``.

        Of images that were extended at the bottom and at the right, the part that is ``shown`` alone counts.
        """
        own = maps if hearsay is None else torch.where(hearsay, maps.clamp(max=0), maps)
        maps, own = F.interpolate(torch.stack([maps, own]), size, mode="bilinear", align_corners=False)
        if shown is not None:
            maps, own = maps[..., : shown[0], : shown[1]], own[..., : shown[0], : shown[1]]
        return cls(maps, own.flatten(1).amax(1), maps.amax(), reason, unjudged)

    def cpu(self) -> Detection:
        """The same on the CPU."""
        unjudged = None if self.unjudged is None else self.unjudged.cpu()
        return Detection(self.maps.cpu(), self.view_scores.cpu(), self.sample_score.cpu(), self.reason, unjudged)
