"""What was decided of a data set's samples, and what was not judged as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vsad.data import GOOD
from vsad.detection import is_unjudged

# Shares of a view that are worth a warning: what is not judged in most samples, and in one sample beyond that.
UNJUDGED, UNJUDGED_HERE = 0.1, 0.05
_WHY = "it lies at the rim of the pictures, or too few normal samples show it"


class Verdict(NamedTuple):
    """What was decided of one sample.

    Args:
        id: the sample's name.
        label: "good" or the kind of defect; None where it is not known.
        score: the sample's.
        defect: whether it is called defective.
        unjudged: the share of every view that no view judges; None where all is judged.
        reason: why it was judged where it lay; None where it was registered, or none is.
    """

    id: str
    label: str | None
    score: float
    defect: bool
    unjudged: tuple[float, ...] | None = None
    reason: str | None = None


@dataclass
class Verdicts:
    """What was decided of samples.

    Args:
        views: names of the views.
        threshold: at or above which a sample is defective.
        found: a verdict for each sample.
    """

    views: tuple[str, ...]
    threshold: float
    found: list[Verdict] = field(default_factory=list)

    def false_alarms(self) -> tuple[int, int]:
        """How many of the good samples are called defective, and how many good samples there are."""
        return self._called([verdict for verdict in self.found if verdict.label == GOOD])

    def defects_found(self) -> tuple[int, int]:
        """How many of the defective samples are called defective, and how many defective samples there are."""
        return self._called([verdict for verdict in self.found if verdict.label not in (GOOD, None)])

    def warnings(self) -> Iterator[str]:
        """Say what was not judged as it should be: samples that were not registered, surface that no view judges."""
        shares = [verdict.unjudged for verdict in self.found if verdict.unjudged is not None]
        usual = np.median(shares, axis=0).tolist() if shares else []
        for view, share in zip(self.views, usual):
            if share >= UNJUDGED:
                yield f"no view judges {share:.0%} of {view} in most samples: {_WHY}"
        for verdict in self.found:
            if verdict.reason is not None:
                yield f"{verdict.id} was judged where it lay: {verdict.reason}"
            if is_unjudged(verdict.unjudged):
                yield f"{verdict.id}: no view judges any of it, so it is called DEFECT; look at its pictures"
                continue
            for view, share, expected in zip(self.views, verdict.unjudged or (), usual):
                if share >= expected + UNJUDGED_HERE:
                    yield f"{verdict.id}: no view judges {share:.0%} of {view}: {_WHY}, or a reflection hides it"

    def _called(self, verdicts: list[Verdict]) -> tuple[int, int]:
        return sum(verdict.defect for verdict in verdicts), len(verdicts)
