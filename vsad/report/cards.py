"""What the page says of each sample, and of each kind of sample: the sample without its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vsad.detection import is_defect
from vsad.metrics import as_numpy
from vsad.report.content import ReportSample
from vsad.report.pictures import Scale, outline, photograph

# A smaller share of a picture that nothing judges is not written.
WRITTEN = 0.05


@dataclass(frozen=True)
class ViewCard:
    """What the page says of one view of a sample.

    Args:
        name: of the view.
        score: of the view.
        defective: True = shows a defect, False = does not, None = unknown.
        unjudged: the share of the picture that nothing judges, where it is worth a word.
    """

    name: str
    score: float
    defective: bool | None
    unjudged: float | None


@dataclass(frozen=True)
class Card:
    """What the page says of one sample.

    Args:
        order: the sample's place among the report's.
        id: the sample's name.
        category: the product.
        score: compared with the threshold.
        called: whether it was judged DEFECT.
        label: True = defective, False = normal, None = unknown.
        defect: the kind of defect, if it has a name.
        not_registered: why it was judged where it lay.
        masked: whether the true place of its defects is known.
        views: its views.
    """

    order: int
    id: str
    category: str
    score: float
    called: bool
    label: bool | None
    defect: str | None
    not_registered: str | None
    masked: bool
    views: list[ViewCard]

    @classmethod
    def of(cls, order: int, sample: ReportSample, names: Sequence[str], threshold: float) -> Card:
        """Read a sample."""
        score = float(sample.sample_score)
        scores = as_numpy(sample.view_scores).tolist()
        label = None if sample.label is None else bool(sample.label)
        views = map(ViewCard, names, scores, _truth(sample, label), _unjudged(sample))
        return cls(
            order, sample.id, sample.category, score, is_defect(score, threshold, sample.unjudged, sample.blind),
            label, sample.defect, sample.not_registered, sample.masks is not None, list(views),
        )  # fmt: skip

    @property
    def truth(self) -> str:
        """Normal, defective or unlabeled."""
        return {None: "unlabeled", False: "normal", True: "defective"}[self.label]

    @property
    def kind(self) -> str:
        """The kind of defect of a defective sample, where it has a name; else as ``truth``."""
        return self.defect if self.label and self.defect else self.truth

    @property
    def outcome(self) -> str:
        """Found, missed, passed, false alarm or unlabeled."""
        if self.label is None:
            return "unlabeled"
        if self.label:
            return "found" if self.called else "missed"
        return "false alarm" if self.called else "passed"

    @property
    def wrong(self) -> bool:
        """Whether the verdict contradicts the truth."""
        return self.outcome in ("missed", "false alarm")

    @property
    def urgency(self) -> tuple[int, float]:
        """What needs a person's eye comes first: a defect that went through, a good part stopped, then high scores."""
        return {"missed": 0, "false alarm": 1}.get(self.outcome, 2), -self.score


def layers(sample: ReportSample, scale: Scale, size: int) -> list[dict[str, Any]]:
    """Per view the layers of its picture: photograph, heat map, outline of the true defect."""
    images, maps = as_numpy(sample.images), as_numpy(sample.maps)
    masks = [None] * len(maps) if sample.masks is None else as_numpy(sample.masks)
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
            groups.setdefault((card.label, card.kind), []).append(card)
    rows = []
    for (label, name), members in sorted(groups.items()):
        scores = [card.score for card in members]
        rows.append(
            {
                "name": name,
                "label": label,
                "count": len(members),
                "right": sum(card.called == label for card in members),
                "scores": (min(scores), float(np.median(scores)), max(scores)),
            }
        )
    return rows


def _truth(sample: ReportSample, label: bool | None) -> list[bool | None]:
    if sample.view_labels is not None:
        return [bool(shows) for shows in as_numpy(sample.view_labels)]
    if sample.masks is not None:
        return [bool(mask.any()) for mask in as_numpy(sample.masks)]
    return [False if label is False else None] * len(sample.view_scores)


def _unjudged(sample: ReportSample) -> list[float | None]:
    if sample.unjudged is None:
        return [None] * len(sample.view_scores)
    return [share if share >= WRITTEN else None for share in as_numpy(sample.unjudged).tolist()]
