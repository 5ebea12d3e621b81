"""The options of the memories of normal appearance."""

from __future__ import annotations

from dataclasses import dataclass

from vsad.config import Strict, check_at_least

# The kinds of memory by their names; their classes are the rows of ``MEMORIES``.
KINDS = ("aligned", "prototypes")


@dataclass(frozen=True)
class MemoryConfig(Strict):
    """The options of all kinds of memory; each reads those that concern it.

    Args:
        references: normal samples that an aligned memory keeps, at most.
        window: how far a product may lie off in an aligned memory, in feature pixels, odd; None chooses 3 where
            samples are registered, else 5.
        prototypes: in every bank of a prototype memory, for each view.
        parts: into which a prototype memory deals the normal samples; 1 makes a single bank of all.
        seed: seed of every random choice.
    """

    references: int = 40
    window: int | None = None
    prototypes: int = 2000
    parts: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, "detector", 1, ("references", "prototypes", "parts"))
        if self.window is not None and (self.window < 1 or self.window % 2 == 0):
            raise ValueError(f"detector: window must be odd, got {self.window}")
