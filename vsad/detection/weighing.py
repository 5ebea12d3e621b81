"""Which levels of features count: those that tell practice defects from normal samples well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.detection.agreement import agree, mean_reach, peaks
from vsad.detection.placement import Placement
from vsad.scratch import Samples, Scratch, in_columns

if TYPE_CHECKING:
    from vsad.detection.detector import Detector

# In shares of the pairs.
MARGIN = 0.05


class Case(NamedTuple):
    """A sample as the detector decides about it: the levels' deviations, in canonical pose, and its placement."""

    deviations: list[Tensor]
    placement: Placement


class Cases(Sequence[Case]):
    """Cases that are read when they are asked for.

    Args:
        deviations: rows of them, of every level.
        placements: those of the normal samples.
        rows: of every case the row of its deviations, and the normal sample that it is, or was before it was painted.
    """

    def __init__(
        self, deviations: Sequence[Scratch], placements: Sequence[Placement], rows: Sequence[tuple[int, int]]
    ) -> None:
        self.deviations, self.placements, self.rows = deviations, placements, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row, sample = self.rows[index]
        deviations = [level[row] for level in self.deviations]
        return Case(deviations, self.placements[sample].to(deviations[0].device))


def choose_weights(
    detector: Detector, normal: Sequence[Case], painted: Sequence[Case], marks: Samples
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
    detector: Detector, weights: Sequence[float], normal: Sequence[Case], painted: Sequence[Case], marks: Samples
) -> float:
    rig = detector.canonical_rig
    own, known, shown = in_columns(detector.fuse(*case, weights) for case in normal)
    total = torch.stack([peaks(*maps, rig) for maps in zip(own, known)]).sum(0)
    reach = mean_reach(total, len(normal))
    highest = torch.stack([agree(*maps, rig, reach).maps.amax() for maps in zip(own, known, shown)])
    found = []
    for case, marked in zip(painted, marks):
        maps = detector.fuse(*case, weights)
        evidence = agree(*maps, rig, reach).maps
        # Where a sample shows nothing that the memory knows, a defect says nothing of a level.
        where = F.adaptive_max_pool2d(marked.to(evidence), evidence.shape[-2:]) > 0  # (D, V, h, w)
        where &= maps[2]
        visible = where.flatten(1).any(1)
        found.append(torch.where(where, evidence, -torch.inf).flatten(1).amax(1)[visible])
    stands_out = torch.cat(found)[:, None] > highest
    return float(stands_out.float().mean()) if len(stands_out) else 0.0
