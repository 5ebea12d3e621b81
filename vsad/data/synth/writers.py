"""Writing synthesized samples in the layouts that the loaders read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vsad.data.images import write_image
from vsad.data.synth.station import Shot
from vsad.files import write_json

# Real-IAD's codes, and two of our own for what it has no code for.
REAL_IAD_CODES = {"scratch": "HS", "stain": "ZW", "missing_part": "QS", "misplaced_part": "CW", "crack": "LW"}
_TIME = "20250101120000"


class Writer(ABC):
    """Writes samples one by one, and what belongs to all of them at the end.

    Args:
        root: top folder of the data set.
        single: whether there is only one category.
    """

    def __init__(self, root: Path, *, single: bool):
        self._root, self._single = root, single

    @abstractmethod
    def write(self, category: str, split: str, kind: str | None, shot: Shot) -> str:
        """Write a sample and give its name; ``kind`` is that of its defect, or None."""

    @abstractmethod
    def finish(self) -> None:
        """Write what belongs to all samples."""


class FolderWriter(Writer):
    """vsad's own layout; with a single category the root is that category."""

    def __init__(self, root: Path, *, single: bool):
        super().__init__(root, single=single)
        self._count: Counter[Path] = Counter()

    def write(self, category: str, split: str, kind: str | None, shot: Shot) -> str:
        root = self._root if self._single else self._root / category
        group = root / split / (kind or "good")
        name = f"{self._count[group]:04d}"
        self._count[group] += 1
        for view, image in shot.images.items():
            write_image(group / name / f"{view}.png", image)
        for view, mask in shot.masks.items():
            write_image(root / "ground_truth" / group.name / name / f"{view}.png", mask.astype(np.uint8) * 255)
        return f"{group.name}/{name}"

    def finish(self) -> None:
        """Nothing belongs to all samples in this layout."""


class RealIadWriter(Writer):
    """Real-IAD's layout: an image tree, and one JSON per category."""

    def __init__(self, root: Path, *, single: bool):
        super().__init__(root, single=single)
        self._count: Counter[tuple[str, str]] = Counter()
        self._entries: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: {"train": [], "test": []})

    def write(self, category: str, split: str, kind: str | None, shot: Shot) -> str:
        code = REAL_IAD_CODES[kind] if kind else "OK"
        self._count[category, code] += 1
        number = self._count[category, code]
        group = f"NG/{code}" if kind else "OK"
        name = f"{category}_{number:04d}_{group.replace('/', '_')}"
        size = next(iter(shot.images.values())).shape[0]
        root = self._root / f"realiad_{size}" / category
        for view, image in shot.images.items():
            stem = f"{group}/S{number:04d}/{name}_{view}_{_TIME}"
            write_image(root / f"{stem}.jpg", image)
            mask_path = f"{stem}.png" if view in shot.masks else None
            if mask_path:
                write_image(root / mask_path, shot.masks[view].astype(np.uint8) * 255)
            self._entries[category][split].append(
                {"category": category, "anomaly_class": code, "image_path": f"{stem}.jpg", "mask_path": mask_path}
            )
        return name

    def finish(self) -> None:
        """Write the JSON files."""
        for category, splits in self._entries.items():
            content = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, **splits}
            write_json(self._root / "realiad_jsons" / f"{category}.json", content)


WRITERS: dict[str, type[Writer]] = {"folder": FolderWriter, "real-iad": RealIadWriter}
