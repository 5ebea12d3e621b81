"""The protocol of the hard stations: what each is made of, and which seeds and photographs are for what.

Nothing may be tuned on what it is reported on. Development and report therefore share neither seeds nor photographs,
and a seed of the other set is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vsad.data.synth.config import SynthConfig


@dataclass(frozen=True)
class HardStation:
    """What makes one station hard.

    Args:
        why: the difficulty, in words.
        nuisances: strength by name.
        train: normal samples to learn from.
    """

    why: str
    nuisances: Mapping[str, float] = field(default_factory=dict)
    train: int = 40


@dataclass(frozen=True)
class Purpose:
    """What a seed may be used for, and the photographs that go with it."""

    seeds: range
    photographs: tuple[str, ...]


HARD_STATIONS: dict[str, HardStation] = {
    "in-place": HardStation("products lie in place under fixed cameras: nothing is hard"),
    "eight-normals": HardStation("eight normal samples are all there is to learn from", train=8),
    "glare": HardStation("lamps flare differently in every view of every sample", {"glare": 1.0}),
    "anywhere": HardStation("products lie anywhere at any angle", {"pose": 1.0}),
    "new-surfaces": HardStation("every product has a raw surface and a serial number of its own", {"surface": 1.0}),
    "relief": HardStation("parts have heights, so that views differ by parallax", {"relief": 1.0}),
    "drift": HardStation("exposure and white balance drift", {"exposure": 1.0}),
    "dust": HardStation("dust lies on the lenses", {"dust": 1.0}),
    "moved-cameras": HardStation("cameras are knocked a little between samples", {"camera": 1.0}),
}

# The report's photographs lie in scikit-image's package; its brick and coins are left out, because those that vsad
# packages are the same pictures.
PURPOSES: dict[str, Purpose] = {
    "development": Purpose(range(0, 100), ("circuit_board", "brick", "coins")),
    "report": Purpose(
        range(1000, 1100),
        ("skimage:gravel", "skimage:logo", "skimage:ihc", "skimage:coffee", "skimage:motorcycle_left"),
    ),
}


def hard_station(name: str, seed: int, *, purpose: str) -> SynthConfig:
    """Configure a hard station: 30 good and 30 defective samples, six of each kind, at 256 pixels.

    Args:
        name: one of ``HARD_STATIONS``.
        seed: of the station; it also chooses the photograph, of the purpose's the one at ``seed`` modulo their number.
        purpose: "development" for seeds 0 to 99, on which anything may be tuned, or "report" for seeds 1000 to 1099,
            on which nothing may.

    Returns:
        The configuration for ``synthesize``.

    Raises:
        ValueError: the station or purpose is unknown, or the seed is not one of the purpose's.

    Example:
        >>> hard_station("glare", 1, purpose="development").categories
        ('brick',)
    """
    if name not in HARD_STATIONS:
        raise ValueError(
            f"hard_station: name must be one of {', '.join(HARD_STATIONS)}, got {name!r}; choose one of them"
        )
    if purpose not in PURPOSES:
        raise ValueError(
            f"hard_station: purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}; choose one of them"
        )
    seeds, photographs = PURPOSES[purpose].seeds, PURPOSES[purpose].photographs
    if seed not in seeds:
        raise ValueError(
            f"hard_station: seed must be from {seeds[0]} to {seeds[-1]} for {purpose}, got {seed}; nothing may be "
            f"tuned on what it is reported on, so development and report share no seed"
        )
    station = HARD_STATIONS[name]
    return SynthConfig(
        categories=(photographs[seed % len(photographs)],),
        train=station.train,
        test_good=30,
        test_defect=30,
        size=256,
        seed=seed,
        nuisances=station.nuisances,
    )
