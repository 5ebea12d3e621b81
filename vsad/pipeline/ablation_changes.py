"""The rows of an ablation: what each changes of the run, and which there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vsad.data.synth.protocol import HARD_STATIONS, PURPOSES
from vsad.pipeline.names import BASELINE, MAIN

UNREGISTERED = "without registration"


class Change(NamedTuple):
    """What a row changes of the run: fields of the model's configuration, of the detector's, and registration."""

    model: dict[str, Any] = {}
    detector: dict[str, Any] = {}
    registered: bool = True


# The rows beside the baseline's. Rows of one model share its training.
CHANGES = {
    MAIN: Change(),
    UNREGISTERED: Change(registered=False),
    # Fitted anew and not only decided anew: the threshold must rest on scores without agreement too.
    "without agreement": Change(detector={"agree": False}),
    "latents alone": Change(detector={"weights": (1.0, 0.0)}),
    "prototypes": Change(detector={"memory": "prototypes"}),
    "without MVAM": Change({"align_stages": ()}),
    "without FRM": Change({"refine": False}),
    "without MVAM and FRM": Change({"align_stages": (), "refine": False}),
    "identity homographies": Change({"homographies": "identity"}),
    "refined homographies": Change({"homographies": "refined"}),
    "learned homographies": Change({"homographies": "learned"}),
    "window 1": Change({"window": 1}),
    "window 5": Change({"window": 5}),
    "stages up1, up2": Change({"feature_stages": ("up1", "up2")}),
    "time steps 0, 50": Change({"timesteps": (0, 50)}),
    "time step 100": Change({"timesteps": (100,)}),
}
ROWS = (*CHANGES, BASELINE)


def check_ablation(stations: Sequence[str], seeds: Sequence[int], purpose: str, out: Path, rows: Sequence[str]) -> None:
    """Refuse arguments that are not what ``ablate`` takes.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """
    names = ", ".join(HARD_STATIONS)
    if not stations or not set(stations) <= set(HARD_STATIONS):
        wrong = ", ".join(repr(name) for name in stations if name not in HARD_STATIONS) or "none"
        raise ValueError(f"ablate: stations must be some of {names}, got {wrong}; choose some of them")
    if purpose not in PURPOSES:
        raise ValueError(f"ablate: purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}; choose one of them")
    known = PURPOSES[purpose].seeds
    if not seeds or not set(seeds) <= set(known):
        wrong = ", ".join(str(seed) for seed in seeds if seed not in known) or "none"
        raise ValueError(
            f"ablate: seeds must be from {known[0]} to {known[-1]} for the purpose {purpose}, got {wrong}; choose such "
            f"seeds or the other purpose: development and report share no seed"
        )
    if not set(rows) <= set(ROWS):
        # Names of rows hold commas.
        wrong = "; ".join(repr(name) for name in rows if name not in ROWS)
        raise ValueError(f"ablate: rows must be some of {'; '.join(ROWS)}; got {wrong}; choose some of them")
    blocking = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise ValueError(f"ablate: out must be a folder, got {out}, but {blocking} is a file; name another folder")
