"""What the other views say of a view's own evidence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vsad.geometry import Rig
from vsad.ops import homography_warp

# In shares of the views' mean: a view in which normal samples hardly reach anything must not outshout the others.
_LEAST_REACH = 0.1


class Agreed(NamedTuple):
    """What the views say together: the ``maps (V, h, w)``, and ``unjudged``, where nobody judges, bool likewise."""

    maps: Tensor
    unjudged: Tensor


def agree(own: Tensor, known: Tensor, shown: Tensor, rig: Rig, reach: Tensor) -> Agreed:
    """``max(A_i(p) / a_i, S_i(p) / s_i)``: what a view sees itself, and what others confirm, by what normal ones reach.

    ``S_i(p) = min(A_i(p), m_i(p))``, where ``m_i(p) = mean_j A_j(H_ij p)`` over the views j that know the point. A
    defect lies on the surface and shows in several views, a highlight or noise in one. The two are separate tests of
    the same point: each is measured by the highest value that it takes in that view of a normal sample, and the
    stronger one counts. Where highlights let a view reach high by itself, what others confirm decides; a defect that
    one view alone shows keeps its own evidence; and what others see does not leak into a view that does not show it.

    Where a view does not know the point, the evidence of the others stands in for it. Where nobody knows it, what a
    view shows stands by itself if another shows the point too, and does not count if none does: a reflection hides
    another place from every camera, so what is hidden from several is bright itself, and one alone cannot be judged.

    Args:
        own: A, the deviations from normal ``(V, h, w)``.
        known: where they can be relied on, ``(V, h, w)`` bool.
        shown: where they say something at least, ``(V, h, w)`` bool.
        rig: rig of the V views.
        reach: a and s, ``(2, V)``, as ``peaks`` gives them on average of normal samples.
    """
    confirmed = torch.minimum(own, neighbors_mean(own, known, rig)[0])
    alone, together = (maps / r[:, None, None] for maps, r in zip((own, confirmed), reach))
    evidence = torch.where(known, torch.maximum(alone, together), 0)
    instead, seen = neighbors_mean(evidence, known, rig)
    itself = shown & neighbors_mean(alone, shown, rig)[1]
    maps = torch.where(known, evidence, torch.where(seen, instead, torch.where(itself, alone, 0)))
    return Agreed(maps, ~(known | seen | itself))


def peaks(own: Tensor, known: Tensor, rig: Rig) -> Tensor:
    """The highest values of A and of S, not below zero, in every view of a sample, ``(2, V)``; see ``agree``."""
    confirmed = torch.minimum(own, neighbors_mean(own, known, rig)[0])
    tests = torch.where(known, torch.stack([own, confirmed]), 0)
    return tests.flatten(2).amax(2).clamp(min=0)


def mean_reach(total: Tensor, count: int) -> Tensor:
    """The mean ``(2, V)`` of the peaks of ``count`` normal samples, given their sum, not too small in any view."""
    mean = total / count
    return torch.maximum(mean, _LEAST_REACH * mean.mean(1, keepdim=True)).clamp(min=1e-6)


def neighbors_mean(maps: Tensor, known: Tensor, rig: Rig) -> tuple[Tensor, Tensor]:
    """``m_i(p) = mean_j A_j(H_ij p)`` over the neighbors j that know the point, and where any of them does.

    Args:
        maps: A, ``(V, h, w)``.
        known: where they are known, ``(V, h, w)`` bool.
        rig: rig of the V views.

    Returns:
        The mean, 0 where no neighbor knows the point; and a mask, both ``(V, h, w)``.
    """
    homography, neighbors = rig.to_operator((maps.shape[-2], maps.shape[-1]), device=maps.device)
    evidence = torch.stack([torch.where(known, maps, 0), known.to(maps)], dim=1)  # (V, 2, h, w)
    V, N = neighbors.shape
    warped = homography_warp(evidence[neighbors.clamp(min=0).flatten()], homography.flatten(0, 1)).unflatten(0, (V, N))
    # A value interpolated with unknown ones would be too small.
    mask = (warped[:, :, 1] > 0.99) & (neighbors >= 0)[:, :, None, None]
    total, seen = torch.where(mask, warped[:, :, 0], 0).sum(1), mask.sum(1)
    return total / seen.clamp(min=1), seen > 0
