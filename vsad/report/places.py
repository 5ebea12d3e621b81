"""The same place in other views: along which homographies a place in one view is found in each of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from vsad.geometry import RigPair, Size, orient_homography

# Homographies in the order in which they are applied.
Chain: TypeAlias = list[list[float]]


def chains(pairs: Sequence[RigPair], views: Sequence[str], size: Size) -> list[list[Chain | None]]:
    """Find the way from every view to every other: one homography, or two over the view that both know best.

    A homography that is known in one direction alone serves in the other too, as its inverse. The two of a chain stay
    apart, because a place is in front of a camera (Z > 0) only where it is in front at either step.

    Args:
        pairs: of a rig, between images of one size.
        views: names of the V views.
        size: (height, width) of the images that the pairs' homographies relate.

    Returns:
        ``found[v][w]``: the way from view v to view w, each homography as 9 numbers row by row; None where there is
        none of at most two steps.
    """
    index = {view: v for v, view in enumerate(views)}
    steps: dict[tuple[int, int], tuple[list[float], float]] = {}
    for backward in (False, True):
        for pair in pairs:
            H = torch.as_tensor(pair.homography, dtype=torch.float64).cpu()
            key = index[pair.target], index[pair.source]
            if backward:
                H, key = torch.linalg.inv(H), key[::-1]
            error = pair.error_px if pair.error_px is not None else float("inf")
            steps.setdefault(key, (orient_homography(H / H.norm(), size).flatten().tolist(), error))

    def way(v: int, w: int) -> Chain | None:
        if v == w:
            return []
        if (v, w) in steps:
            return [steps[v, w][0]]
        over = [u for u in range(len(views)) if (v, u) in steps and (u, w) in steps]
        if not over:
            return None
        u = min(over, key=lambda u: steps[v, u][1] + steps[u, w][1])
        return [steps[v, u][0], steps[u, w][0]]

    return [[way(v, w) for w in range(len(views))] for v in range(len(views))]
