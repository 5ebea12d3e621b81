"""What the page says of each sample, and of each kind of sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vsad.metrics import as_numpy
from vsad.report.content import Report, ReportSample
from vsad.report.pictures import Scale, outline, photograph

# A smaller share of a picture that nothing judges is not written.
WRITTEN = 0.05


class Card:
    """What the page says of one sample."""

    def __init__(self, sample: ReportSample, report: Report) -> None:
        self.sample = sample
        self.label = None if sample.label is None else bool(sample.label)
        self.defective = sample.sample_score >= report.threshold
        self.view_scores = [float(score) for score in as_numpy(sample.view_scores)]
        self.views = list(zip(report.views, self.view_scores, self.view_truth, strict=True))

    @property
    def outcome(self) -> str:
        if self.label is None:
            return "unlabeled"
        if self.label:
            return "found" if self.defective else "missed"
        return "false alarm" if self.defective else "passed"

    @property
    def urgency(self) -> int:
        """What needs a person's eye comes first: a defect that went through, then a good part stopped."""
        return {"missed": 0, "false alarm": 1}.get(self.outcome, 2)

    @property
    def view_truth(self) -> list[bool | None]:
        """Per view: True = shows a defect, False = does not, None = unknown."""
        if self.sample.view_labels is not None:
            return [bool(label) for label in as_numpy(self.sample.view_labels)]
        if self.sample.masks is not None:
            return [bool(mask.any()) for mask in as_numpy(self.sample.masks)]
        return [False if self.label is False else None] * len(self.view_scores)

    @property
    def unjudged(self) -> list[float | None]:
        """Per view the share of the picture that nothing judges, where it is worth a word."""
        if self.sample.unjudged is None:
            return [None] * len(self.view_scores)
        return [share if share >= WRITTEN else None for share in as_numpy(self.sample.unjudged).tolist()]

    def pictures(self, scale: Scale, size: int) -> list[dict[str, Any]]:
        """Per view the layers of its picture: photograph, heat map, outline of the true defect."""
        images, maps = as_numpy(self.sample.images), as_numpy(self.sample.maps)
        masks = [None] * len(maps) if self.sample.masks is None else as_numpy(self.sample.masks)
        return [
            {
                "size": image.shape[:0:-1],
                "photograph": photograph(image, size),
                "heat": scale.heat(anomaly_map, size),
                "outline": "" if mask is None else outline(mask, size),
                "outline_size": anomaly_map.shape[::-1] if mask is None else mask.shape[::-1],
            }
            for image, anomaly_map, mask in zip(images, maps, masks, strict=True)
        ]


def kinds_of_sample(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """Verdicts for each kind of labeled sample: normal first, then every kind of defect by name."""
    groups: dict[tuple[bool, str], list[Card]] = {}
    for card in cards:
        if card.label is not None:
            name = (card.sample.defect or "defect") if card.label else "normal"
            groups.setdefault((card.label, name), []).append(card)
    rows = []
    for (label, name), members in sorted(groups.items()):
        scores = [card.sample.sample_score for card in members]
        rows.append(
            {
                "name": name,
                "count": len(members),
                "right": sum(card.defective == label for card in members),
                "scores": (min(scores), float(np.median(scores)), max(scores)),
            }
        )
    return rows
