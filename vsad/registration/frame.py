"""Carry all views of a rig into the frame of one: the reference view, which sees most of what the others see."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import torch
from torch import Tensor

from vsad.geometry import Rig, orient_homography, overlap_fraction

# A pair's own error is added to the cost of one step, so that few steps come first and precise ones next.
_UNKNOWN_ERROR = 1.0


class Frame(NamedTuple):
    """Views that the rig joins, and how each follows from the reference view.

    Args:
        views: indices of the views, the reference view first.
        H_view_from_reference: ``(len(views), 3, 3)`` float64, oriented.
    """

    views: list[int]
    H_view_from_reference: Tensor


def shared_frames(rig: Rig) -> list[Frame]:
    """Divide a rig's views into groups that its pairs join, each in the frame of one view.

    The homographies of pairs are composed along the shortest way, ``H_c_from_b @ H_b_from_a``. The reference is the
    view in which most pixels of the group's other views have their place.

    Returns:
        The groups, by their lowest view; a view without a pair is a group of its own.
    """
    steps = _steps(rig)
    frames, open_views = [], set(range(len(rig.views)))
    while open_views:
        group = sorted(_reach(min(open_views), steps))
        open_views -= set(group)
        frames.append(max((_frame(view, group, steps, rig) for view in group), key=lambda scored: scored[0])[1])
    return frames


def _frame(
    reference: int, group: list[int], steps: list[dict[int, tuple[float, Tensor]]], rig: Rig
) -> tuple[tuple[float, int], Frame]:
    """Give the frame of a reference view, and how well it serves: how much of the group it sees."""
    ways = _reach(reference, steps)
    views = [reference, *(view for view in group if view != reference)]
    H = orient_homography(torch.stack([ways[view] for view in views]), rig.size)
    seen = overlap_fraction(orient_homography(torch.linalg.inv(H), rig.size), rig.size)
    return (float(seen.mean()), -reference), Frame(views, H)


def _steps(rig: Rig) -> list[dict[int, tuple[float, Tensor]]]:
    """For every view the views that one step leads to, its cost, and the homography, there from here."""
    steps: list[dict[int, tuple[float, Tensor]]] = [{} for _ in rig.views]
    for pair in rig.pairs:
        a, b = rig.views.index(pair.target), rig.views.index(pair.source)
        error = _UNKNOWN_ERROR if pair.error_px is None else pair.error_px
        cost = 1 + error / max(rig.size)
        steps[a][b] = cost, pair.homography
        steps[b].setdefault(a, (cost, torch.linalg.inv(pair.homography)))
    return steps


def _reach(start: int, steps: list[dict[int, tuple[float, Tensor]]]) -> dict[int, Tensor]:
    """Give the homography, there from ``start``, of every view that steps lead to (Dijkstra)."""
    reached: dict[int, Tensor] = {}
    queue: list[tuple[float, int, int]] = [(0.0, start, start)]
    while queue:
        cost, view, via = heapq.heappop(queue)
        if view in reached:
            continue
        here = torch.eye(3, dtype=torch.float64)
        reached[view] = here if view == start else steps[via][view][1] @ reached[via]
        for following, (step, _) in steps[view].items():
            heapq.heappush(queue, (cost + step, following, view))
    return reached
