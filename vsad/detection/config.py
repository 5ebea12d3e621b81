"""How maps are made of features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vsad.detection.memory.config import KINDS, MemoryConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DetectorConfig(MemoryConfig):
    """How maps are made of features; the options of the memory are those of ``MemoryConfig``.

    Args:
        memory: a name in ``MEMORIES``: "aligned" looks normal samples up at the same place, "prototypes" anywhere.
        weights: weights of the levels, the latents first; one value serves all further ones. None has them chosen by
            how well they separate practice defects from normal samples.
        smooth: deviation of the Gaussian that smooths the maps, in pixels of the finest features.
        agree: whether what other views see at the same surface point counts.
        batch: samples that the UNet takes at once, where there are many; None takes 8 on a GPU, and 1 on a CPU, whose
            caches hold no more.
        mixed_precision: what the UNet computes its features in, when the detector is fitted and ever after; "no" is the
            float32 of its weights.
        category: of the model's categories, where it is conditioned on them; None for the first.
        false_alarms: share of normal samples that may exceed the threshold.
    """

    memory: str = "aligned"
    weights: tuple[float, ...] | None = None
    smooth: float = 1.0
    agree: bool = True
    batch: int | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    category: str | None = None
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory not in KINDS:
            raise ValueError(f"detector: memory must be one of {list(KINDS)}, got {self.memory!r}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"detector: batch must be at least 1, got {self.batch}")
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"detector: false_alarms must lie between 0 and 1, got {self.false_alarms}")
        if not 0 <= self.smooth < math.inf:  # NaN is neither
            raise ValueError(f"detector: smooth must be finite and at least 0, got {self.smooth}")
        if self.weights is not None and not (all(w >= 0 for w in self.weights) and 0 < sum(self.weights) < math.inf):
            raise ValueError(f"detector: weights must be finite, not negative, nor all zero, got {self.weights}")

    def unet_batch(self, device: torch.device) -> int:
        """The number of samples that the UNet takes at once on a device."""
        return self.batch or (1 if device.type == "cpu" else 8)

    @property
    def unet_precision(self) -> torch.dtype | None:
        """The floating type that the UNet's passes are cast to; None for the weights' own."""
        import torch

        return {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}[self.mixed_precision]
