"""What the other views say of a view's own evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad.geometry import Rig
from vsad.ops import homography_warp


def agree(maps: Tensor, known: Tensor, rig: Rig, doubtful: Tensor | None = None) -> Tensor:
    """``A_i(p) + min(A_i(p), m_i(p))``, both not below zero in the minimum, ``m_i(p) = mean_j A_j(H_ij p)``.

    The mean goes over the views j that know the point. A defect lies on the surface and shows in several views, a
    highlight or noise in one; so what the others see counts, but only up to what the view sees itself: it doubles a
    view's evidence at most, and a defect does not leak into a view that does not show it. A defect that one view alone
    shows keeps its evidence. Where a view does not know the point itself, the others stand in for it, ``m_i(p)``;
    where nobody knows it, a doubtful view's own evidence stands, and without any the result is 0.

    Args:
        maps: deviations from normal ``(V, h, w)``.
        known: where they can be relied on, ``(V, h, w)`` bool.
        rig: rig of the V views.
        doubtful: where else they say something, ``(V, h, w)`` bool.
    """
    homography, neighbors = rig.to_operator((maps.shape[-2], maps.shape[-1]), device=maps.device)
    evidence = torch.stack([torch.where(known, maps, 0), known.to(maps)], dim=1)  # (V, 2, h, w)
    total, seen = torch.zeros_like(maps), torch.zeros_like(maps)
    for slot in range(neighbors.shape[1]):
        warped = homography_warp(evidence[neighbors[:, slot].clamp(min=0)], homography[:, slot])
        # A value interpolated with unknown ones would be too small.
        mask = (warped[:, 1] > 0.99) & (neighbors[:, slot] >= 0)[:, None, None]
        total += torch.where(mask, warped[:, 0], 0)
        seen += mask
    others = total / seen.clamp(min=1)
    support = torch.minimum(maps, others).clamp(min=0)
    alone = torch.zeros_like(known) if doubtful is None else doubtful & (seen == 0)
    return torch.where(known, maps + support, torch.where(alone, maps, others))
