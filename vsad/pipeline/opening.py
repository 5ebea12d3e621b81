"""Opening the data that a step works on, as the configuration says that files are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vsad.data import GOOD, Cameras, in_pixels, is_resized, open_dataset
from vsad.pipeline.resolution import resolution_warnings
from vsad.progress import SILENT, Progress

if TYPE_CHECKING:
    from vsad.data import MultiViewDataset
    from vsad.geometry import Rig


@dataclass
class Reading:
    """How files are read, and what could not be.

    Args:
        format: the layout; None tells it from the files.
        depth: significant bits of files of more than 8; None takes the cameras' own range.
        pixel_limit: larger images are refused; None for the default.
        skip_bad: leave out samples that cannot be read, instead of refusing all.
        skipped: is filled with those that were left out, as ``<split>/<id>``, and why.
    """

    format: str | None = None
    depth: int | None = None
    pixel_limit: int | None = None
    skip_bad: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    def open(
        self,
        root: str | Path,
        split: str,
        *,
        category: str | None = None,
        size: int | tuple[int, int] | None = None,
        cameras: Cameras | None = None,
        progress: Progress = SILENT,
    ) -> MultiViewDataset:
        """Open a split, as ``open_dataset`` does, without what cannot be read where that is to be skipped."""

        def skip(sample_id: str, reason: str) -> None:
            self.skipped[in_utf8(f"{split}/{sample_id}")] = in_utf8(
                reason
            )  # the splits number their samples independently

        dataset = open_dataset(
            root, split, category=category, size=size, format=self.format, cameras=cameras, depth=self.depth,
            pixel_limit=self.pixel_limit, on_bad=skip if self.skip_bad else None,
        )  # fmt: skip
        if self.skip_bad:
            dataset, bad = dataset.without_bad(progress)
            for each in bad:
                skip(each.sample.id, each.reason)
        return dataset

    def normal(
        self,
        root: str | Path,
        *,
        category: str | None = None,
        size: int | tuple[int, int] | None = None,
        cameras: Cameras | None = None,
        progress: Progress = SILENT,
    ) -> MultiViewDataset:
        """Open the training split, which must hold normal samples only; warn of too few pixels, and of enlarged ones.

        Raises:
            ValueError: a sample is labeled as defective; the message names it.
        """
        dataset = self.open(root, "train", category=category, size=size, cameras=cameras, progress=progress)
        for sample in dataset.samples:
            if sample.defect != GOOD:
                raise ValueError(
                    f"{root}: train must hold normal samples only, got {sample.defect}/{sample.id}; move it to test"
                )
        for warning in resolution_warnings(dataset):
            warnings.warn(warning, stacklevel=2)
        return dataset


def size_warnings(dataset: MultiViewDataset) -> Iterator[str]:
    """Say which cameras write files of another size than those that a model or detector learned from."""
    for view, (size, known) in dataset.changed_sizes().items():
        yield (
            f"{view}: files are of {in_pixels(size)}, and those that were learned from of {in_pixels(known)}; resized "
            "they look sharper or blurrier than what is known: set the camera as it was, or train anew"
        )


def rig_warnings(rig: Rig, dataset: MultiViewDataset) -> Iterator[str]:
    """Say which cameras' files are not of the rig's shape: it was calibrated on other files, or on resized ones."""
    for view, size in dataset.cameras.sizes.items():
        if not is_resized(size, rig.size):
            yield (
                f"{view}: files are of {in_pixels(size)}, and the rig is of pictures of {in_pixels(rig.size)}; if it "
                "was not calibrated on such files, resized by --size, calibrate anew"
            )


def in_utf8(text: str) -> str:
    """Spell out what UTF-8 cannot write: bytes of names in other encodings."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
