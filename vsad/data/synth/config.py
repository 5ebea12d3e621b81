"""What to synthesize."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vsad.data.synth.nuisances import check_nuisances
from vsad.data.synth.writers import WRITERS


@dataclass(frozen=True)
class SynthConfig:
    """What to synthesize.

    Args:
        categories: names of packaged photographs (``photograph_names()``), paths of your own, or "skimage:NAME" for
            one of scikit-image's, where that is installed.
        train: normal samples to train on, per category.
        test_good: normal samples to test on, per category.
        test_defect: defective samples, per category; the kinds take turns.
        size: pixels per side of a view.
        seed: the same seed gives the same station and the same images.
        format: "folder", or "real-iad".
        nuisances: strength by name of what makes the station hard, for all samples alike; 1 is usual, 0 is none. The
            names are those of ``vsad.data.synth.nuisances.NUISANCES``.
    """

    categories: tuple[str, ...] = ("circuit_board",)
    train: int = 40
    test_good: int = 20
    test_defect: int = 20
    size: int = 256
    seed: int = 0
    format: str = "folder"
    nuisances: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nuisances", check_nuisances(self.nuisances))
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
