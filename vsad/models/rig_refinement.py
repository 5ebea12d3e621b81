"""The rig that a model's HomographyNet sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from vsad.geometry import Rig, corners_to_homography, homography_to_corners, image_corners, scale_homography
from vsad.geometry.homography import transform_points
from vsad.models.valdm import VALDM


@torch.no_grad()
def refined_rig(model: VALDM, latents: Iterable[Tensor], rig: Rig) -> Rig:
    """The rig whose corner offsets are the medians of those that the model finds in normal samples.

    Cameras do not move from sample to sample, so what all samples say together is better than what one says.

    Args:
        model: with a HomographyNet.
        latents: of normal samples, ``(V, c, h, w)`` each.
        rig: from which the model starts; for a model that learns homographies its graph alone counts.

    Returns:
        A rig of the same pairs. A pair keeps its homography where the median sample sees a corner of it from behind.
    """
    model.eval()
    found = []
    for sample in latents:
        projection = model.project(sample[None], rig)[-1]
        found.append(projection.homography[0].double().cpu())
    H, size = torch.stack(found), projection.size  # (S, V, N, 3, 3)
    corners = image_corners(size, dtype=torch.float64)
    in_front = transform_points(H, corners, return_mask=True)[1].all(-1)  # (S, V, N)
    offsets = torch.where(in_front[..., None, None], homography_to_corners(H, size), torch.nan).nanmedian(0).values
    median = scale_homography(corners_to_homography(offsets.nan_to_num(), size), size, rig.size)
    pairs, slots = [], dict.fromkeys(rig.views, 0)
    for pair in rig.pairs:
        view, slot = rig.views.index(pair.target), slots[pair.target]
        slots[pair.target] += 1
        seen = float(in_front[:, view, slot].float().mean()) > 0.5
        pairs.append(replace(pair, homography=median[view, slot]) if seen else pair)
    return Rig(rig.views, rig.size, tuple(pairs))
