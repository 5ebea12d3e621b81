"""What a detector achieved on samples of which the truth is known, counted sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsad.detection import Detection
from vsad.files import first_of
from vsad.metrics import Evaluation, Metrics, Result
from vsad.pipeline.verdicts import Verdict, Verdicts

# What a result calls the counts of verdicts, beside the levels of metrics.
VERDICTS = "verdicts"


class Tally:
    """Metrics and verdicts; no map is kept.

    Args:
        views: names of the views.
        threshold: at or above which a sample is defective; NaN where there is none.
    """

    def __init__(self, views: Sequence[str], threshold: float) -> None:
        self.evaluation, self.verdicts = Evaluation(), Verdicts(tuple(views), threshold)
        self.empty_masks: list[str] = []

    def add(self, truth: Mapping[str, Any], found: Detection) -> None:
        """Count a sample; ``truth`` is what a ``MultiViewDataset`` says of it.

        Where a defective sample has no mask that shows anything, it counts as a sample only: nobody knows which of its
        pixels and views are defective. Where a score is no number, it counts for the verdicts only.
        """
        unjudged, blind = (None if each is None else tuple(each.tolist()) for each in (found.unjudged, found.blind))
        score, called = float(found.sample_score), found.is_defect(self.verdicts.threshold)
        self.verdicts.found.append(
            Verdict(truth["id"], truth["defect"] or None, score, called, unjudged, found.reason, blind)
        )
        if not math.isfinite(score):
            return
        unknown = bool(truth["mask_empty"])
        if unknown:
            self.empty_masks.append(truth["id"])
        self.evaluation.add(
            found.maps, None if unknown else truth["masks"], found.view_scores,
            None if unknown else truth["view_labels"], found.sample_score, truth["sample_label"],
        )  # fmt: skip

    def result(self) -> Result:
        """The metrics of every level, and what the threshold calls, as ``count_verdicts`` does; nothing without one."""
        counts = {} if math.isnan(self.verdicts.threshold) else {VERDICTS: count_verdicts(self.verdicts)}
        return {**self.evaluation.result(), **counts}

    def warnings(self) -> Iterator[str]:
        """Say what was not judged as it should be, and which defective samples nobody has marked the defect of."""
        yield from self.verdicts.warnings()
        if self.empty_masks:
            count = len(self.empty_masks)
            yield (
                f"{count} defective {'sample has' if count == 1 else 'samples have'} no mask that shows a defect "
                f"({first_of(self.empty_masks)}): counted as samples, their pixels and views nowhere"
            )


def count_verdicts(verdicts: Verdicts) -> Metrics:
    """What a threshold calls right and wrong, of samples of which the truth is known.

    Returns:
        ``threshold``, ``false_alarms`` of ``good`` samples, and ``defects_found`` of ``defects``.
    """
    (alarms, good), (hits, defects) = verdicts.false_alarms(), verdicts.defects_found()
    return {
        "threshold": verdicts.threshold,
        "false_alarms": alarms,
        "good": good,
        "defects_found": hits,
        "defects": defects,
    }
