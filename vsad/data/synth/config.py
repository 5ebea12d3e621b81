"""What to synthesize."""

from __future__ import annotations

from dataclasses import dataclass

from vsad.data.synth.writers import WRITERS


@dataclass(frozen=True)
class SynthConfig:
    """What to synthesize.

    Args:
        categories: names of packaged photographs (``photograph_names()``), or paths of your own.
        train: normal samples to train on, per category.
        test_good: normal samples to test on, per category.
        test_defect: defective samples, per category; the kinds take turns.
        size: pixels per side of a view.
        seed: the same seed gives the same station and the same images.
        format: "folder", or "real-iad".
    """

    categories: tuple[str, ...] = ("circuit_board",)
    train: int = 40
    test_good: int = 20
    test_defect: int = 20
    size: int = 256
    seed: int = 0
    format: str = "folder"

    def __post_init__(self) -> None:
        if self.format not in WRITERS:
            raise ValueError(
                f"synthesize: format must be one of {', '.join(WRITERS)}, got {self.format!r}; choose one of them"
            )
        if self.size < 32:
            raise ValueError(f"synthesize: size must be at least 32 pixels, got {self.size}; defects need room")
        if self.train < 1 or self.test_good < 0 or self.test_defect < 0:
            raise ValueError(
                f"synthesize: train must be at least 1 and test_good, test_defect at least 0, "
                f"got {self.train}, {self.test_good}, {self.test_defect}; raise them"
            )
        if not self.categories:
            raise ValueError("synthesize: categories must name at least one photograph, got none; add one")
