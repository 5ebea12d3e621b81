"""One level of features: what is remembered of it, and what scores are normal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vsad.detection.config import DetectorConfig
from vsad.detection.memory import MEMORIES, Changed, Memory
from vsad.detection.precision import Unrounded
from vsad.detection.smoothing import gaussian
from vsad.progress import SILENT, Progress
from vsad.scratch import Samples, Scratch

# Feature pixels over which normal scores are pooled: samples are few, and products lie a little off.
PLACE = 1.5
# In shares of the mean deviation: where normal samples hardly differ, a small change must not look enormous.
FLOOR = 0.3


class Level(Unrounded):
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
        features: Samples,
        seen: Samples,
        config: DetectorConfig,
        *,
        changed: Changed = (),
        progress: Progress = SILENT,
        label: str = "memory",
    ) -> tuple[Level, Scratch]:
        """Remember normal ``features (S, V, C, h, w)``, of which ``seen (S, V, h, w)`` say anything.

        Returns:
            The level, and the own deviations of the normal samples and of the ``changed`` ones after them,
            ``(S + P, V, h, w)``: of each as if neither the memory nor the statistics knew the normal sample.
        """
        memory = MEMORIES[config.memory].fit(features, seen, config)
        scores = memory.normal_scores(features, seen, progress, label, changed=changed)
        known, count = memory.known(seen), len(features)

        def sums(sample: int) -> Tensor:
            return _sums(scores[sample], seen[sample] & known)

        total = sums(0)
        for sample in range(1, count):
            total += sums(sample)
        level = cls(memory, *_statistics(total, count, memory.by_place), known)
        deviations = Scratch()
        for row, left_out in enumerate([*range(count), *(index for index, _ in changed)]):
            # Of two samples the other one alone would have no deviation.
            others, number = (total - sums(left_out), count - 1) if count > 2 else (total, count)
            mean, deviation = _statistics(others, number, memory.by_place)
            deviations.append((scores[row] - mean) / deviation)
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


def _sums(scores: Tensor, seen: Tensor) -> Tensor:
    """A sample's part in the sums that statistics are made of, ``(3, V, h, w)``: of w, w x and w x^2.

    The weight w of a score x is 1 where it was seen. In float64 a sample's part can be taken out of the sums of
    thousands again.
    """
    w, x = seen.double(), scores.double()
    return torch.stack([w, w * x, w * x.square()])


def _statistics(sums: Tensor, count: int, by_place: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the scores of ``count`` normal samples by their ``sums``, ``(V, h, w)`` float32 each."""
    weight, first, second = sums

    def average(x: Tensor) -> Tensor:
        if not by_place:
            return (x.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1))[:, None, None].expand(x.shape)
        return gaussian(x, PLACE) / gaussian(weight, PLACE).clamp(min=1e-3)

    mean = average(first)
    bessel = count / (count - 1) if by_place and count > 1 else 1
    squares = second - 2 * mean * first + mean.square() * weight  # w (x - mean)^2
    deviation = (average(squares).clamp(min=0) * bessel).sqrt()
    somewhere = weight > 0
    typical = (deviation * somewhere).sum() / somewhere.sum().clamp(min=1)
    return mean.float(), (deviation + FLOOR * typical).clamp(min=1e-6).float()
