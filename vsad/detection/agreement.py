"""What the other views add to a view's own evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad.geometry import Rig
from vsad.ops import homography_warp


def add_agreement(maps: Tensor, rig: Rig) -> Tensor:
    """``A_i(p) + max(0, mean_j A_j(H_ij p))`` over the views j that see p: a defect shows at one surface point in
    several views, a highlight or noise in one.

    Args:
        maps: deviations from normal ``(V, h, w)``.
        rig: rig of the V views.
    """
    homography, neighbors = rig.to_operator((maps.shape[-2], maps.shape[-1]), device=maps.device)
    total, seen = torch.zeros_like(maps), torch.zeros_like(maps)
    for slot in range(neighbors.shape[1]):
        others = maps[neighbors[:, slot].clamp(min=0)][:, None]
        warped, mask = homography_warp(others, homography[:, slot], return_mask=True)
        mask = mask & (neighbors[:, slot] >= 0)[:, None, None]
        total += torch.where(mask, warped[:, 0], 0)
        seen += mask
    return maps + (total / seen.clamp(min=1)).clamp(min=0)
