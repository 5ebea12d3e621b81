"""Which levels of features count: those that tell practice defects from normal samples best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.detection.agreement import agree, mean_reach, peaks
from vsad.detection.placement import Placement

if TYPE_CHECKING:
    from vsad.detection.detector import Detector


class Case(NamedTuple):
    """A sample as the detector decides about it: the levels' deviations, in canonical pose, and its placement."""

    deviations: list[Tensor]
    placement: Placement


def choose_weights(
    detector: Detector, normal: Sequence[Case], painted: Sequence[Case], marks: Tensor
) -> tuple[float, ...]:
    """Choose the levels that together separate practice defects best: 1 for those, 0 for the others.

    The separation is the share of pairs, of a practice defect and a normal sample, in which the evidence at the defect
    exceeds the highest of the normal sample (AUROC). From the best level on, the one that raises it most is taken in
    as long as any does.

    Args:
        detector: with its levels, which neither the normal nor the painted cases' own samples are known to.
        normal: normal samples.
        painted: normal samples with practice defects.
        marks: ``(P, D, V, H, W)`` bool, where each defect shows.

    Returns:
        A weight for every level; all 1 without practice defects.
    """
    count = len(detector.levels)
    if count == 1 or not painted or not normal:
        return (1.0,) * count
    return _greedily(count, lambda weights: _separation(detector, weights, normal, painted, marks))


def _greedily(count: int, worth: Callable[[tuple[float, ...]], float]) -> tuple[float, ...]:
    """Add one level after the other while that is worth more."""
    best, chosen = float("-inf"), (0.0,) * count
    while True:
        larger = [(*chosen[:i], 1.0, *chosen[i + 1 :]) for i in range(count) if chosen[i] == 0]
        worths = [worth(weights) for weights in larger]
        if not larger or max(worths) <= best:
            return chosen
        best = max(worths)
        chosen = larger[worths.index(best)]


def _separation(
    detector: Detector, weights: Sequence[float], normal: Sequence[Case], painted: Sequence[Case], marks: Tensor
) -> float:
    fused = [detector.fuse(*case, weights) for case in normal]
    total = torch.stack([peaks(own, known, detector.rig) for own, known, _ in fused]).sum(0)
    reach = mean_reach(total, len(fused))
    highest = torch.stack([agree(*maps, detector.rig, reach).amax() for maps in fused])
    found = []
    for case, marked in zip(painted, marks):
        evidence = agree(*detector.fuse(*case, weights), detector.rig, reach)
        where = F.adaptive_max_pool2d(marked.float(), evidence.shape[-2:]) > 0  # (D, V, h, w)
        visible = where.flatten(1).any(1)
        found.append(torch.where(where, evidence, -torch.inf).flatten(1).amax(1)[visible])
    return float((torch.cat(found)[:, None] > highest).float().mean())
