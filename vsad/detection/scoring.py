"""What normal samples score: how high they reach, where the threshold lies, and which part of them nobody judges."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsad.detection.agreement import mean_reach, peaks
from vsad.detection.oddity import name_odd
from vsad.detection.threshold import fit_threshold
from vsad.detection.weighing import Case
from vsad.scratch import in_columns

if TYPE_CHECKING:
    from vsad.detection.detector import Detector

# So large a share of a view that no view judges is worth a warning.
UNJUDGED = 0.1
WHY_UNJUDGED = "it lies at the rim of the pictures, or too few normal samples show it"


def fit_scores(detector: Detector, samples: Sequence[Case], names: Sequence[str]) -> None:
    """Set a detector's reach, its threshold and what is usually not judged.

    Every score is measured by the reach of the other samples.

    Args:
        detector: whose levels are fitted.
        samples: normal ones.
        names: theirs.
    """
    maps = in_columns(detector._own(*case) for case in samples)  # own, known and shown
    highest = torch.stack([peaks(own, known, detector.judged_rig) for own, known, _ in zip(*maps)])
    unjudged: dict[int, Tensor] = {}

    def score(chosen: Sequence[int]) -> Iterator[float]:
        total, others = highest[chosen].sum(0), max(len(chosen) - 1, 1)
        for i in chosen:
            detector.reach = mean_reach(total - highest[i] if len(chosen) > 1 else total, others)
            own, known, shown = (column[i] for column in maps)
            found = detector._judge(own, known, shown)
            assert found.unjudged is not None
            unjudged[i] = found.unjudged
            yield float(found.sample_score)

    scores = [*score(range(len(samples)))]
    detector.fitted = name_odd(fit_threshold(scores, detector.config.false_alarms), scores, names, score)
    detector.reach = mean_reach(highest.sum(0), len(samples))
    shares = torch.stack([*unjudged.values()]).median(0).values
    detector.unjudged = [round(share, 4) for share in shares.tolist()]


def warn_of_unjudged(views: Sequence[str], unjudged: Sequence[float] | None) -> None:
    """Warn of views of which no view judges a large share of normal samples: defects there are missed."""
    for view, share in zip(views, unjudged or ()):
        if share >= UNJUDGED:
            warnings.warn(
                f"detector: no view judges {share:.0%} of {view} in the normal samples: {WHY_UNJUDGED}", stacklevel=3
            )
