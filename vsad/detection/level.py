"""One level of features: what is remembered of it, and what scores are normal."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vsad.detection.config import DetectorConfig
from vsad.detection.memory import MEMORIES, Memory
from vsad.detection.smoothing import gaussian
from vsad.progress import SILENT, Progress

# Feature pixels over which normal scores are pooled: samples are few, and products lie a little off.
PLACE = 1.5
# In shares of the mean deviation: where normal samples hardly differ, a small change must not look enormous.
FLOOR = 0.3


class Level(nn.Module):
    """One level of features: its memory, and the mean and deviation that normal scores have at every place.

    Args:
        memory: memory of normal features.
        mean: ``(V, h, w)``.
        deviation: ``(V, h, w)``.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, memory: Memory, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    @classmethod
    def fit(
        cls,
        features: Tensor,
        config: DetectorConfig,
        *,
        whiten: bool,
        progress: Progress = SILENT,
        label: str = "memory",
    ) -> tuple[Level, Tensor]:
        """Remember normal ``features (S, V, C, h, w)``; also the normal samples' own deviations ``(S', V, h, w)``."""
        memory = MEMORIES[config.memory].fit(features, config, whiten=whiten)
        scores = memory.normal_scores(features, progress, label)
        mean = gaussian(scores.mean(0), PLACE)
        deviation = gaussian((scores - mean).square().mean(0), PLACE).sqrt()
        level = cls(memory, mean, (deviation + FLOOR * deviation.mean()).clamp(min=1e-6))
        return level, (scores - level.mean) / level.deviation

    @classmethod
    def rebuild(cls, weights: Mapping[str, Tensor], config: DetectorConfig) -> Level:
        """Make the level again of its saved buffers."""
        remembered = {name.removeprefix("memory."): w for name, w in weights.items() if name.startswith("memory.")}
        memory = MEMORIES[config.memory].rebuild(remembered, config)
        return cls(memory, weights["mean"], weights["deviation"])

    def forward(self, features: Tensor) -> Tensor:
        """Deviations ``(V, h, w)`` of one sample's ``features (V, C, h, w)`` from normal."""
        scores: Tensor = self.memory(features)
        return (scores - self.mean) / self.deviation
