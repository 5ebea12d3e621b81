"""Which levels of features count: those that tell practice defects from normal samples well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.detection.agreement import agree, mean_reach, peaks
from vsad.detection.placement import Placement

if TYPE_CHECKING:
    from vsad.detection.detector import Detector

# In shares of the pairs.
MARGIN = 0.05


class Case(NamedTuple):
    """A sample as the detector decides about it: the levels' deviations, in canonical pose, and its placement."""

    deviations: list[Tensor]
    placement: Placement


def choose_weights(
    detector: Detector, normal: Sequence[Case], painted: Sequence[Case], marks: Tensor
) -> tuple[float, ...]:
    """Choose the levels that separate practice defects about as well as the best: 1 for those, 0 for the others.

    The separation is the share of pairs, of a practice defect and a normal sample, in which the evidence at the defect,
    by that level alone, exceeds the highest of the normal sample (AUROC). Levels within ``MARGIN`` of the best count
    alike: practice cannot tell smaller differences, and mistakes of levels even out in their mean.

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
    alone = [tuple(float(i == level) for i in range(count)) for level in range(count)]
    worth = [_separation(detector, weights, normal, painted, marks) for weights in alone]
    return tuple(float(each >= max(worth) - MARGIN) for each in worth)


def _separation(
    detector: Detector, weights: Sequence[float], normal: Sequence[Case], painted: Sequence[Case], marks: Tensor
) -> float:
    rig = detector.canonical_rig
    fused = [detector.fuse(*case, weights) for case in normal]
    total = torch.stack([peaks(own, known, rig) for own, known, _ in fused]).sum(0)
    reach = mean_reach(total, len(fused))
    highest = torch.stack([agree(*maps, rig, reach).maps.amax() for maps in fused])
    found = []
    for case, marked in zip(painted, marks):
        maps = detector.fuse(*case, weights)
        evidence, shown = agree(*maps, rig, reach).maps, maps[2]
        # Where a sample shows nothing that the memory knows, a defect says nothing of a level.
        where = (F.adaptive_max_pool2d(marked.float(), evidence.shape[-2:]) > 0) & shown  # (D, V, h, w)
        visible = where.flatten(1).any(1)
        found.append(torch.where(where, evidence, -torch.inf).flatten(1).amax(1)[visible])
    stands_out = torch.cat(found)[:, None] > highest
    return float(stands_out.float().mean()) if len(stands_out) else 0.0
