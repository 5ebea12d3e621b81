"""What was decided of a data set's samples, and what was not judged as it should be."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vsad.data import GOOD
from vsad.detection import is_blind, is_unjudged
from vsad.detection.scoring import UNJUDGED, WHY_UNJUDGED
from vsad.files import first_of, first_samples

# The share of a view beyond what is usually not judged that is worth a warning.
UNJUDGED_HERE = 0.05
# A view that judges less than this of its picture by itself, or of what it judges in most samples, is worth one.
_LEAST, _LITTLE = 0.05, 0.5
# Where no view judges so much of one, the sample does not lie as normal samples do.
_LOST = 0.5
# So many samples are needed to tell what is wrong with all of them.
_MANY = 5
_DEAD = "the camera is dead, saturated or covered, or shows no product; look at it"
_SATURATED = "the rest is saturated or out of place, and only other views may say anything of it; look at the camera"


class Verdict(NamedTuple):
    """What was decided of one sample.

    Args:
        id: the sample's name.
        label: "good" or the kind of defect; None where it is not known.
        score: the sample's; NaN where it is no number.
        defect: whether it is called defective.
        unjudged: the share of every view that no view judges; None where all is judged.
        reason: why it was judged where it lay; None where it was registered, or none is.
        blind: the share of every view that the view itself does not judge; None where that is not known.
    """

    id: str
    label: str | None
    score: float
    defect: bool
    unjudged: tuple[float, ...] | None = None
    reason: str | None = None
    blind: tuple[float, ...] | None = None


@dataclass
class Verdicts:
    """What was decided of samples.

    Args:
        views: names of the views.
        threshold: at or above which a sample is defective.
        found: a verdict for each sample.
        usual: the share of every view that no view judges in normal samples; None where it is not known. It was told
            when the detector was fitted.
    """

    views: tuple[str, ...]
    threshold: float
    found: list[Verdict] = field(default_factory=list)
    usual: Sequence[float] | None = None

    def false_alarms(self) -> tuple[int, int]:
        """How many of the good samples are called defective, and how many good samples there are."""
        return self._called([verdict for verdict in self.found if verdict.label == GOOD])

    def defects_found(self) -> tuple[int, int]:
        """How many of the defective samples are called defective, and how many defective samples there are."""
        return self._called([verdict for verdict in self.found if verdict.label not in (GOOD, None)])

    def warnings(self) -> Iterator[str]:
        """Say what was not judged as it should be: first what is likely wrong with most samples, then a line for all
        samples of which the same is to be said.
        """
        yield from self._cause()
        shares = self._usual([verdict.unjudged for verdict in self.found])
        where = " in most samples" if len(self.found) > 1 else ""
        for view, share, usual in zip(self.views, shares, self.usual or [0.0] * len(shares)):
            if share >= max(UNJUDGED, usual + UNJUDGED_HERE):
                yield f"no view judges {share:.0%} of {view}{where}: {WHY_UNJUDGED}"
        yield from self.of_samples()

    def of_samples(self) -> Iterator[str]:
        """Say of which samples less was judged than of most."""
        unjudged = self._usual([verdict.unjudged for verdict in self.found])
        blind = self._usual([verdict.blind for verdict in self.found])
        alike: dict[tuple[str, str], dict[str, float | str]] = {}
        for verdict in self.found:
            for before, detail, after in self._said_of(verdict, unjudged, blind):
                alike.setdefault((before, after), {})[verdict.id] = detail
        for (before, after), details in alike.items():
            yield f"{_names([*details])}{before}{_together([*details.values()])}{after}"

    def _said_of(
        self, verdict: Verdict, unjudged: Sequence[float], blind: Sequence[float]
    ) -> Iterator[tuple[str, float | str, str]]:
        """What is to be said of a sample: words that others may share, what is its own, and further such words.

        Args:
            verdict: the sample's.
            unjudged, blind: what is usual of every view.
        """
        if verdict.reason is not None:
            yield " was judged where it lay: ", verdict.reason, ""
        if not math.isfinite(verdict.score):
            yield ": the score is no number, so it is called DEFECT; inspect it anew, with --fresh --device cpu", "", ""
        if is_unjudged(verdict.unjudged):
            yield ": no view judges any of it, so it is called DEFECT; look at its pictures", "", ""
            return
        for view, share, usual in zip(self.views, verdict.unjudged or (), unjudged):
            if share >= usual + UNJUDGED_HERE:
                yield ": no view judges ", share, f" of {view}: {WHY_UNJUDGED}, or a reflection hides it"
        for view, share, usual, nothing in zip(self.views, verdict.blind or (), blind, is_blind(verdict.blind)):
            if nothing:
                yield f": {view} itself judges nothing, so it is called DEFECT: {_DEAD}", "", ""
            elif 1 - share < max(_LEAST, _LITTLE * (1 - usual)):
                yield f": {view} itself judges ", 1 - share, f" of its picture: {_SATURATED}"

    def _cause(self) -> Iterator[str]:
        """Say what is likely wrong where most samples that may be good are called defective, and nothing else is."""
        asked = [each for each in self.found if each.label in (GOOD, None) and not any(is_blind(each.blind))]
        called = [verdict for verdict in asked if verdict.defect]
        lost = [each for each in called if each.reason is not None or max(each.unjudged or (0,)) >= _LOST]
        if len(asked) < _MANY or math.isnan(self.threshold):
            return
        if len(called) == len(asked) or 2 * len(lost) > len(asked):
            apart = f", {len(lost)} of them not registered or hardly judged" if lost else ""
            yield (
                f"{len(called)} of {len(asked)} samples that may be good are called DEFECT{apart}: unless they are "
                "defective, this is the detector of another product, or a camera or lamp was changed; name the right "
                "detector, set the camera as it was, or fit anew"
            )

    @staticmethod
    def _usual(shares: Sequence[tuple[float, ...] | None]) -> list[float]:
        """The median share of every view; of none where shares are not known."""
        known = [each for each in shares if each is not None]
        return np.median(known, axis=0).tolist() if known else []

    def _called(self, verdicts: list[Verdict]) -> tuple[int, int]:
        return sum(verdict.defect for verdict in verdicts), len(verdicts)


def _names(samples: Sequence[str]) -> str:
    """One or more samples as the subject of a sentence."""
    return samples[0] if len(samples) == 1 else f"each of {first_samples(samples)}"


def _together(details: Collection[float | str]) -> str:
    """What is said of each of several samples: the range of shares, or the first words."""
    shares = sorted(detail for detail in details if isinstance(detail, float))
    if shares:
        ends = dict.fromkeys(f"{share:.0%}" for share in (shares[0], shares[-1]))
        return " to ".join(ends)
    return first_of([*dict.fromkeys(str(detail) for detail in details)], separator="; ")
