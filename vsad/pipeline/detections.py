"""Detections of a whole data set: measured against the truth, and stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vsad.data import GOOD, MultiViewDataset
from vsad.detection import Detection
from vsad.files import read_array, read_json, write_array, write_json
from vsad.metrics import Result, evaluate

FILE = "detections.json"
# Shares of a view that are worth a warning: what is not judged in most samples, and in one sample beyond that.
UNJUDGED, UNJUDGED_HERE = 0.1, 0.05
_WHY = "it lies at the rim of the pictures, or too few normal samples show it"


class Truth(NamedTuple):
    """What a data set knows of its samples: ``masks (S, V, H, W)``, ``view_labels (S, V)``, ``sample_labels (S,)``."""

    masks: Tensor
    view_labels: Tensor
    sample_labels: Tensor

    @classmethod
    def of(cls, dataset: MultiViewDataset) -> Truth:
        """Read every sample once."""
        rows = [(item["masks"], item["view_labels"], item["sample_label"]) for item in dataset]
        return cls(*(torch.stack(column) for column in zip(*rows)))


@dataclass
class Detections:
    """Detections of a data set's samples, and the truth beside them.

    Args:
        dataset: that was inspected.
        found: one detection for each of its samples.
        threshold: at or above which a sample is defective; NaN when not known.
    """

    dataset: MultiViewDataset
    found: list[Detection] = field(default_factory=list)
    threshold: float = float("nan")

    def evaluate(self, truth: Truth) -> Result:
        """Metrics at pixel, view and sample level."""
        columns = list(zip(*self.found))[:3]
        maps, view_scores, sample_scores = (torch.stack(parts) for parts in columns)
        return evaluate(maps, truth.masks, view_scores, truth.view_labels, sample_scores, truth.sample_labels)

    def false_alarms(self) -> tuple[int, int]:
        """How many of the good samples are called defective, and how many good samples there are."""
        return self._called([f for s, f in zip(self.dataset.samples, self.found) if s.defect == GOOD])

    def defects_found(self) -> tuple[int, int]:
        """How many of the defective samples are called defective, and how many defective samples there are."""
        return self._called([f for s, f in zip(self.dataset.samples, self.found) if s.defect != GOOD])

    def _called(self, found: list[Detection]) -> tuple[int, int]:
        return sum(float(f.sample_score) >= self.threshold for f in found), len(found)

    def warnings(self) -> Iterator[str]:
        """Say what was not judged as it should be: samples that were not registered, surface that no view judges."""
        shares = [found.unjudged for found in self.found if found.unjudged is not None]
        usual = torch.stack(shares).median(0).values.tolist() if shares else []
        for view, share in zip(self.dataset.views, usual):
            if share >= UNJUDGED:
                yield f"no view judges {share:.0%} of {view} in most samples: {_WHY}"
        for sample, found in zip(self.dataset.samples, self.found):
            if found.reason is not None:
                yield f"{sample.id} was judged where it lay: {found.reason}"
            here = [] if found.unjudged is None else found.unjudged.tolist()
            for view, share, expected in zip(self.dataset.views, here, usual):
                if share >= expected + UNJUDGED_HERE:
                    yield f"{sample.id}: no view judges {share:.0%} of {view}: {_WHY}, or a reflection hides it"

    def save(self, folder: Path) -> None:
        """Write ``detections.json`` (scores and verdicts) and a float32 ``.npy`` of maps ``(V, H, W)`` a sample."""
        rows = []
        for sample, found in zip(self.dataset.samples, self.found):
            maps = "maps/" + f"{sample.defect}_{sample.id}.npy".replace("/", "_")
            write_array(folder / maps, found.maps)
            score = float(found.sample_score)
            rows.append({
                "id": sample.id, "score": score, "verdict": "defect" if score >= self.threshold else "ok",
                "views": dict(zip(self.dataset.views, found.view_scores.tolist())), "maps": maps,
                "not_registered": found.reason,
                "unjudged": None if found.unjudged is None else dict(zip(self.dataset.views, found.unjudged.tolist())),
            })  # fmt: skip
        content = {"category": self.dataset.category, "threshold": self.threshold, "samples": rows}
        write_json(folder / FILE, content)

    @classmethod
    def load(cls, folder: Path, dataset: MultiViewDataset) -> Detections:
        """Read what ``save`` wrote, for the same samples.

        Raises:
            FileNotFoundError, ValueError: a file is missing or broken, or the samples are others.
        """
        path, remedy = folder / FILE, "name a folder that `vsad detect` wrote, or run it again"
        content = read_json(path, remedy)
        found = []
        try:
            rows = {row["id"]: row for row in content["samples"]}
            for sample in dataset.samples:
                row = rows[sample.id]
                maps = read_array(folder / row["maps"], remedy)
                views = torch.tensor([row["views"][view] for view in dataset.views])
                hidden = row["unjudged"] and torch.tensor([row["unjudged"][view] for view in dataset.views])
                found.append(Detection(maps, views, torch.tensor(row["score"]), row["not_registered"], hidden))
            return cls(dataset, found, float(content["threshold"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: must be detections of {dataset.category}, got {error!r}; {remedy}") from None
