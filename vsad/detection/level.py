"""One level of features: what is remembered of it, and what scores are normal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vsad.detection.config import DetectorConfig
from vsad.detection.memory import MEMORIES, Changed, Memory
from vsad.detection.smoothing import gaussian
from vsad.progress import SILENT, Progress

# Feature pixels over which normal scores are pooled: samples are few, and products lie a little off.
PLACE = 1.5
# In shares of the mean deviation: where normal samples hardly differ, a small change must not look enormous.
FLOOR = 0.3


class Level(nn.Module):
    """One level of features: its memory, and the mean and deviation of normal scores.

    Both are those of the place where the memory looks at the same place, and those of the view where it finds
    features anywhere: then a place has nothing of its own.

    Args:
        memory: memory of normal features.
        mean: ``(V, h, w)``.
        deviation: ``(V, h, w)``.
        known: where the memory can judge, ``(V, h, w)`` bool.
    """

    mean: Tensor
    deviation: Tensor
    known: Tensor

    def __init__(self, memory: Memory, mean: Tensor, deviation: Tensor, known: Tensor) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.register_buffer("known", known)

    @classmethod
    def fit(
        cls,
        features: Tensor,
        seen: Tensor,
        config: DetectorConfig,
        *,
        changed: Changed = (),
        progress: Progress = SILENT,
        label: str = "memory",
    ) -> tuple[Level, Tensor]:
        """Remember normal ``features (S, V, C, h, w)``, of which ``seen (S, V, h, w)`` say anything.

        Returns:
            The level, and the own deviations of the normal samples and of the ``changed`` ones after them,
            ``(S + P, V, h, w)``: of each as if neither the memory nor the statistics knew the normal sample.
        """
        memory = MEMORIES[config.memory].fit(features, seen, config)
        count = len(features)
        every = memory.normal_scores(features, seen, progress, label, changed=changed)
        scores, known = every[:count], memory.known(seen)
        level = cls(memory, *_statistics(scores, seen & known, memory.by_place), known)
        deviations = torch.empty_like(every)
        samples = [*range(count), *(index for index, _ in changed)]
        for left_out in range(count):
            # Of two samples the other one alone would have no deviation.
            others = [i for i in range(count) if i != left_out or count < 3]
            mean, deviation = _statistics(scores[others], seen[others] & known, memory.by_place)
            for row in (row for row, sample in enumerate(samples) if sample == left_out):
                deviations[row] = (every[row] - mean) / deviation
        return level, deviations

    @classmethod
    def rebuild(cls, weights: Mapping[str, Tensor], config: DetectorConfig) -> Level:
        """Make the level again of its saved buffers."""
        remembered = {name.removeprefix("memory."): w for name, w in weights.items() if name.startswith("memory.")}
        memory = MEMORIES[config.memory].rebuild(remembered, config)
        return cls(memory, weights["mean"], weights["deviation"], weights["known"])

    def forward(self, features: Tensor) -> Tensor:
        """Deviations ``(V, h, w)`` of one sample's ``features (V, C, h, w)`` from normal."""
        scores: Tensor = self.memory(features)
        return (scores - self.mean) / self.deviation


def _statistics(scores: Tensor, seen: Tensor, by_place: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of normal ``scores (S, V, h, w)`` where they were ``seen``, ``(V, h, w)`` each."""
    weight = seen.to(scores)

    def average(x: Tensor) -> Tensor:
        if not by_place:
            total = (x * weight).sum((0, 2, 3)) / weight.sum((0, 2, 3)).clamp(min=1)
            return total[:, None, None].expand(x.shape[1:]).clone()
        return gaussian((x * weight).sum(0), PLACE) / gaussian(weight.sum(0), PLACE).clamp(min=1e-3)

    mean = average(scores)
    bessel = len(scores) / (len(scores) - 1) if by_place and len(scores) > 1 else 1
    deviation = (average((scores - mean).square()) * bessel).sqrt()
    somewhere = seen.any(0)
    typical = (deviation * somewhere).sum() / somewhere.sum().clamp(min=1)
    return mean, (deviation + FLOOR * typical).clamp(min=1e-6)
