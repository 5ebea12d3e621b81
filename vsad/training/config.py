"""How to train."""

from __future__ import annotations

from dataclasses import dataclass

from vsad.config import Strict


@dataclass(frozen=True)
class TrainConfig(Strict):
    """How to train.

    Args:
        steps, batch: optimizer steps, and samples (of V views) in each.
        lr: peak of a one-cycle schedule.
        max_timestep: noise levels are drawn below it; features are read at 0, so a short training dwells near it.
        alignment, refine: weights of the losses; the diffusion loss has weight 1.
        seed: seed of the order, the noise and the time steps.
    """

    steps: int = 100
    batch: int = 1
    lr: float = 2e-3
    max_timestep: int = 400
    alignment: float = 0.1
    refine: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "max_timestep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"train: lr must be positive, got {self.lr}")
