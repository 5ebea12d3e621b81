"""What a detector achieved on samples of which the truth is known, counted sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsad.detection import Detection
from vsad.metrics import Evaluation
from vsad.pipeline.verdicts import Verdict, Verdicts


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

    def warnings(self) -> Iterator[str]:
        """Say what was not judged as it should be, and which defective samples nobody has marked the defect of."""
        yield from self.verdicts.warnings()
        if self.empty_masks:
            count, first = len(self.empty_masks), ", ".join(self.empty_masks[:3])
            yield (
                f"{count} defective {'sample has' if count == 1 else 'samples have'} no mask that shows a defect "
                f"({first}{', ...' if count > 3 else ''}): counted as samples, their pixels and views nowhere"
            )
