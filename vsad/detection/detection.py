"""What a detector says of one sample."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

# Where so large a share of a view is not judged, nothing is.
_NOTHING = 0.999


# A share of every view; None for a view of which it is not known.
Shares: TypeAlias = Iterable[float | None] | Tensor | None


def is_unjudged(unjudged: Shares) -> bool:
    """Whether no view judges anything of a sample; ``unjudged`` as in ``is_defect``."""
    shares = _known(unjudged)
    return bool(shares) and min(shares) >= _NOTHING


def is_defect(score: float | Tensor, threshold: float, unjudged: Shares = None, blind: Shares = None) -> bool:
    """Whether a sample calls for a verdict of DEFECT: its score is at or above the threshold or not finite, or it was
    not looked at as normal samples were.

    What a dead, saturated or covered camera or a fault of the device makes of a sample must never pass as good, even
    where the other cameras find nothing.

    Args:
        score: the sample's.
        threshold: the detector's.
        unjudged: the share of every view that no view judges; None where all is judged. Nobody may judge nothing.
        blind: the share of every view that the view itself does not judge; None where it judges all. None may be 1.
    """
    score = float(score)
    return not (math.isfinite(score) and score < threshold) or is_unjudged(unjudged) or any(is_blind(blind))


def is_blind(blind: Shares) -> list[bool]:
    """Which views judge nothing of a sample by themselves; ``blind`` as in ``is_defect``."""
    return [share >= _NOTHING for share in _known(blind)]


def _known(shares: Shares) -> list[float]:
    return [] if shares is None else [float(share or 0) for share in shares]


class Detection(NamedTuple):
    """What the detector says of one sample.

    ``maps (V, H, W)``: how far from normal, 1 being the highest that a view of a normal sample reaches on average;
    ``view_scores (V,)``: their maxima, without what only other views know at the rim; ``sample_score ()``: the maps'
    maximum. All float32. ``reason`` says why the sample was judged where it lay, at a station whose samples are
    registered; else it is None. ``unjudged (V,)`` is the share of each picture that no view judges, because it lies at
    the rim of the pictures, too few normal samples show it or a reflection hides it; its maps go on there as they are
    beside it. ``blind (V,)`` is the share that the view itself does not judge, for the same reasons, whether others do
    or not: all of the picture where a camera is dead or saturated.
    """

    maps: Tensor
    view_scores: Tensor
    sample_score: Tensor
    reason: str | None = None
    unjudged: Tensor | None = None
    blind: Tensor | None = None

    @classmethod
    def of(
        cls,
        maps: Tensor,
        size: tuple[int, int],
        reason: str | None = None,
        unjudged: Tensor | None = None,
        hearsay: Tensor | None = None,
        shown: tuple[int, int] | None = None,
        blind: Tensor | None = None,
    ) -> Detection:
        """Resize ``maps (V, h, w)`` to the images' ``size`` and take the maxima, a view's without its ``hearsay``.

        Of images that were extended at the bottom and at the right, the part that is ``shown`` alone counts.
        """
        own = maps if hearsay is None else torch.where(hearsay, maps.clamp(max=0), maps)
        maps, own = F.interpolate(torch.stack([maps, own]), size, mode="bilinear", align_corners=False)
        if shown is not None:
            maps, own = maps[..., : shown[0], : shown[1]], own[..., : shown[0], : shown[1]]
        return cls(maps, own.flatten(1).amax(1), maps.amax(), reason, unjudged, blind)

    def without(self, dead: Tensor) -> Detection:
        """The same where some views ``(V,)`` bool show nothing of the sample: they judge none of their pictures."""
        return self if self.blind is None else self._replace(blind=torch.where(dead, 1.0, self.blind))

    def is_defect(self, threshold: float) -> bool:
        """Whether the sample calls for a verdict of DEFECT at a threshold; see the function ``is_defect``."""
        return is_defect(self.sample_score, threshold, self.unjudged, self.blind)

    def cpu(self) -> Detection:
        """The same on the CPU."""
        unjudged, blind = (None if share is None else share.cpu() for share in (self.unjudged, self.blind))
        return Detection(self.maps.cpu(), self.view_scores.cpu(), self.sample_score.cpu(), self.reason, unjudged, blind)
