"""The samples of a data set as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vsad.data.images import read_image, read_mask, resize_area
from vsad.data.sample import GOOD, Sample


class MultiViewDataset(Dataset[dict[str, Any]]):
    """The samples of one category as tensors.

    Convention: views are sorted by name; images are RGB in [0, 1]; a mask is True on the defect. Masks are
    resized by area and True from 0.5 on; a view's label is taken before resizing, so no small defect is lost.

    Args:
        samples: samples with the same views and the same category.
        size: (height, width) or one int for both; None keeps the cameras' own size, which must then be one.

    Raises:
        ValueError: a sample lacks a view, categories are mixed, or there is no sample.

    Example:
        >>> from vsad.data import open_dataset
        >>> ds = open_dataset("station", "test", size=256)
        >>> ds[0]["images"].shape
        torch.Size([5, 3, 256, 256])
    """

    def __init__(self, samples: Sequence[Sample], size: int | tuple[int, int] | None = None):
        if not samples:
            raise ValueError("MultiViewDataset: samples must hold at least one sample, got none; check the split")
        categories = {sample.category for sample in samples}
        if len(categories) > 1:
            raise ValueError(
                f"MultiViewDataset: samples must be of one category, got {sorted(categories)}; "
                "make one data set per category"
            )
        self.samples = list(samples)
        self.category = categories.pop()
        self.views = sorted({view for sample in samples for view in sample.images})
        for sample in samples:
            missing = [view for view in self.views if view not in sample.images]
            if missing:
                raise ValueError(
                    f"MultiViewDataset: sample {sample.id} ({sample.split}/{sample.defect}) must have every view "
                    f"of {self.views}, got none for {', '.join(missing)}; add the image or remove the sample"
                )
        self.size = (size, size) if isinstance(size, int) else size
        self._native: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            images (V, 3, H, W) float32, masks (V, H, W) bool, view_labels (V,) bool, sample_label () bool,
            and the strings id, category, defect.

        Raises:
            ValueError: an image or mask is broken, or of another size than it must be.
        """
        sample = self.samples[index]
        views = [self._read_view(sample, view) for view in self.views]
        images, masks, labels = zip(*views, strict=True)
        return {
            "images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().div_(255),
            "masks": torch.from_numpy(np.stack(masks)),
            "view_labels": torch.tensor(labels),
            "sample_label": torch.tensor(sample.defect != GOOD),
            "id": sample.id,
            "category": sample.category,
            "defect": sample.defect,
        }

    def _read_view(self, sample: Sample, view: str) -> tuple[np.ndarray, np.ndarray, bool]:
        file, mask_file = sample.images[view], sample.masks.get(view)
        path = file.path
        image = read_image(path)
        height_width = image.shape[:2]
        size = self.size or self._native_size()
        if self.size is None and height_width != size:
            raise ValueError(
                f"MultiViewDataset: {path} must be {_by(size)} like {self.samples[0].images[self.views[0]].path}, "
                f"got {_by(height_width)}; pass size= to resize all images"
            )
        if mask_file is None:
            return resize_area(image, size), np.zeros(size, bool), False
        mask_path = mask_file.path
        mask = read_mask(mask_path)
        if mask.shape != height_width:
            raise ValueError(
                f"MultiViewDataset: {mask_path} must be {_by(height_width)} like its image {path}, "
                f"got {_by(mask.shape)}; export the mask at the image's size"
            )
        return resize_area(image, size), resize_area(mask, size) >= 0.5, bool((mask >= 0.5).any())

    def _native_size(self) -> tuple[int, int]:
        if self._native is None:
            height, width = read_image(self.samples[0].images[self.views[0]].path).shape[:2]
            self._native = (height, width)
        return self._native


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} pixels"
