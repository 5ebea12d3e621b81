"""The samples of a data set as tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vsad.data.decode import PIXEL_LIMIT, Raster, decode
from vsad.data.depth import CameraDepths, to_rgb
from vsad.data.images import resize_area
from vsad.data.masks import read_mask
from vsad.data.naming import natural_key
from vsad.data.read_ahead import read_ahead
from vsad.data.sample import GOOD, Cameras, Sample, ViewFile, in_pixels, is_resized
from vsad.progress import SILENT, Progress


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be read, and why, in words."""

    sample: Sample
    reason: str


class MultiViewDataset(Dataset[dict[str, Any]]):
    """The samples of one category as tensors.

    Convention: views are in the order of ``cameras``, or else in natural order of their names; images are RGB in
    [0, 1]; a mask is True on the defect. Images and masks are resized by area, and a mask is True from 0.5 on; a view's
    label is taken before resizing, so no small defect is lost. Iterating decodes in as many threads as torch uses, but
    four at most, and holds no more than one sample per thread and one more.

    Args:
        samples: samples with the same views and the same category.
        size: (height, width) or one int for both; None keeps the cameras' own size, which must then be one.
        cameras: what a rig or a detector expects: its views in its order, resized to its size, with its depths, from
            files of the shape of its sizes, or else of those of the first sample.
        depth: significant bits of all files of integers of more than 8 bits; None takes those of ``cameras``, or else
            for each camera the smallest of 8, 10, 12, 14 and 16 that holds the values of up to 200 of its files.
        pixel_limit: larger files are refused before they are decoded; None for 250 million pixels.

    Raises:
        ValueError: a sample lacks a view, views are not those of ``cameras``, categories are mixed, there is no sample.

    Example:
        >>> from vsad.data import open_dataset
        >>> ds = open_dataset("station", "test", size=256)
        >>> ds[0]["images"].shape
        torch.Size([5, 3, 256, 256])
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int | tuple[int, int] | None = None,
        *,
        cameras: Cameras | None = None,
        depth: int | None = None,
        pixel_limit: int | None = None,
    ) -> None:
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
        self.views = _views(samples, cameras)
        self.size = _size(size, cameras)
        if depth is not None and not 1 <= depth <= 31:
            raise ValueError(f"MultiViewDataset: depth must be 1 to 31 bits, got {depth}; give what the cameras store")
        known = (cameras.depths if cameras else {}) if depth is None else dict.fromkeys(self.views, depth)
        files = {view: [sample.images[view].path for sample in samples] for view in self.views}
        self._pixel_limit = PIXEL_LIMIT if pixel_limit is None else pixel_limit
        self._depths = CameraDepths(files, known, self._pixel_limit)
        self._shapes = dict(cameras.sizes) if cameras else {}
        self._first: dict[str, _Native] = {}

    @property
    def cameras(self) -> Cameras:
        """What the cameras give, for a detector to remember; looks at files when it is first asked for."""
        found = {view: self._depths.of(view) for view in self.views}
        depths = {view: 8 if bits is None else bits for view, bits in found.items()}
        sizes = self._shapes or {view: native.size for view, native in self._natives().items()}
        return Cameras(tuple(self.views), self.size or self._native_file().size, depths, sizes)

    def changed_sizes(self) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
        """Tell which views' files, in the first sample, are of another size than is expected: (size, expected)."""
        try:
            natives = self._natives() if self._shapes else {}
        except (OSError, ValueError):
            return {}  # there is no sample that can be read
        sizes = {view: (native.size, self._shapes.get(view, native.size)) for view, native in natives.items()}
        # Those of another shape are refused when they are read.
        return {view: pair for view, pair in sizes.items() if pair[0] != pair[1] and is_resized(*pair)}

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return read_ahead(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            images (V, 3, H, W) float32, masks (V, H, W) bool, view_labels (V,) bool, sample_label () bool, mask_empty
            () bool (the sample is defective, and its masks show nothing), and the strings id, category, defect. Of
            a sample whose defect is not known, labels are False, masks are empty, and defect is "".

        Raises:
            OSError: a file is missing, or may not be read.
            ValueError: an image or mask is broken, or of another size than it must be.
        """
        sample = self.samples[index]
        images, natives = self._read_images(sample)
        return {"images": images, **self._truth(sample, natives)}

    def read_truth(self, index: int) -> dict[str, Any]:
        """Read what ``[]`` gives of one sample but its images; of these only those that have masks are looked at."""
        return self._truth(self.samples[index], {})

    def read_images(self, index: int) -> Tensor:
        """Read the images of one sample, (V, 3, H, W) float32, without its masks; raises what reading it raises."""
        return self._read_images(self.samples[index])[0]

    def iter_images(self, on_bad: Callable[[BadSample], None] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, images) of every sample, as ``read_images`` does, in order and read ahead.

        Args:
            on_bad: is called with each sample that cannot be read, when its turn comes, which is then left out; where
                None, the error is raised.
        """
        if on_bad is None:
            yield from enumerate(read_ahead(self.read_images, range(len(self))))
            return
        for index, images in enumerate(read_ahead(lambda i: self._attempt(self.read_images, i), range(len(self)))):
            if isinstance(images, BadSample):
                on_bad(images)
            else:
                yield index, images

    def iter_truth(self) -> Iterator[dict[str, Any]]:
        """Yield what ``read_truth`` gives of every sample, in order and read ahead."""
        return read_ahead(self.read_truth, range(len(self)))

    def subset(self, indices: Iterable[int]) -> MultiViewDataset:
        """Return the data set of some samples, with the depths that the cameras of all have."""
        part = copy.copy(self)
        part.samples = [self.samples[index] for index in indices]
        if not part.samples:
            raise ValueError("MultiViewDataset.subset: indices must name at least one sample, got none; keep one")
        return part

    def without_bad(self, progress: Progress = SILENT) -> tuple[MultiViewDataset, list[BadSample]]:
        """Read every sample once, and leave out those that cannot be read.

        Returns:
            The data set of the others, and what was left out.

        Raises:
            ValueError: nothing is left, or no normal sample of those there were.
        """
        tried = read_ahead(lambda index: self._attempt(self.__getitem__, index), range(len(self)))
        bad: dict[int, BadSample] = {}
        for index, item in enumerate(progress.track(tried, "check samples", len(self))):
            if isinstance(item, BadSample):
                bad[index] = item
        rest = [index for index in range(len(self)) if index not in bad]
        had_normal = any(found.sample.defect == GOOD for found in bad.values())
        if not rest or (had_normal and not any(self.samples[index].defect == GOOD for index in rest)):
            first = next(iter(bad.values()))
            raise ValueError(
                f"MultiViewDataset: at least one {'normal ' * had_normal}sample must be readable, got {len(bad)} bad "
                f"ones of {len(self)}, such as {first.sample.id} ({first.reason}); restore the files"
            )
        return self.subset(rest), list(bad.values())

    def _attempt(self, read: Callable[[int], Any], index: int) -> Any:
        try:
            return read(index)
        except (OSError, ValueError) as error:
            return BadSample(self.samples[index], str(error))

    def _read_images(self, sample: Sample) -> tuple[Tensor, dict[str, _Native]]:
        size = self.size or self._native_file().size
        images, natives = torch.empty(len(self.views), 3, *size, dtype=torch.float32), {}
        for v, (view, raster, file) in enumerate(self._rasters(sample)):
            native = natives[view] = _Native.of(raster, file)
            if self.size is None and native.size != size:
                raise ValueError(
                    f"MultiViewDataset: {file.path} must be {in_pixels(size)} like {self._native_file().path}, "
                    f"got {in_pixels(native.size)}; pass --size (in Python size=) to resize all images"
                )
            depth = None if raster.values.dtype == np.uint8 else self._depths.of(view)
            image = to_rgb(replace(raster, values=_part(raster.values, file)), depth)
            images[v] = torch.from_numpy(resize_area(image, size)).permute(2, 0, 1)
            if image.dtype == np.uint8:
                images[v].div_(255)
        if sample is self.samples[0]:
            self._first = natives  # others are compared with them, and they need not be decoded again
        for view, native in natives.items():
            self._check_shape(native, view)
        return images, natives

    def _truth(self, sample: Sample, natives: Mapping[str, _Native]) -> dict[str, Any]:
        size = self.size or self._native_file().size
        masks = torch.zeros(len(self.views), *size, dtype=torch.bool)
        labels = torch.zeros(len(self.views), dtype=torch.bool)
        path = levels = None
        for v, view in enumerate(self.views):
            file = sample.masks.get(view) if sample.defect is not None else None
            if file is None:
                continue
            if levels is None or path != file.path:  # the views of a montage share their file
                path, levels = file.path, read_mask(file.path, pixel_limit=self._pixel_limit)
            mask = _part(levels, file)
            _check_mask(mask, file, natives.get(view) or self._native(sample.images[view]))
            labels[v] = bool((mask >= 0.5).any())
            masks[v] = torch.from_numpy(resize_area(mask, size) >= 0.5)
        defective = sample.defect not in (GOOD, None)
        return {
            "masks": masks,
            "view_labels": labels,
            "sample_label": torch.tensor(defective),
            "mask_empty": torch.tensor(defective and not bool(labels.any())),
            "id": sample.id,
            "category": sample.category,
            "defect": sample.defect or "",
        }

    def _rasters(self, sample: Sample) -> Iterator[tuple[str, Raster, ViewFile]]:
        """Decode the images of a sample, each view's with its file."""
        raster = None
        for view in self.views:
            file = sample.images[view]
            if raster is None or raster.path != file.path:  # the views of a montage share their file
                raster = decode(file.path, self._pixel_limit)
            yield view, raster, file

    def _check_shape(self, native: _Native, view: str) -> None:
        """Refuse an image that resizing would stretch in another way than those of its camera."""
        expected = self._shapes.get(view) or self._natives()[view].size
        if is_resized(native.size, expected):
            return
        like = "in the files that this was made with" if view in self._shapes else f"like {self._natives()[view].path}"
        raise ValueError(
            f"MultiViewDataset: {native.path} must have the shape of {in_pixels(expected)}, {like}, got "
            f"{in_pixels(native.size)}, which would be stretched; set the camera as it was, or calibrate and train anew"
        )

    def _native(self, file: ViewFile) -> _Native:
        return _Native.of(decode(file.path, self._pixel_limit), file)

    def _native_file(self) -> _Native:
        """The first image that can be read, whose size others must have where none is given."""
        return self._natives()[self.views[0]]

    def _natives(self) -> dict[str, _Native]:
        """The images of the first sample that can be read, whose shapes others must have where none are given."""
        if not self._first:
            for sample in self.samples:
                try:
                    self._first = {view: _Native.of(raster, file) for view, raster, file in self._rasters(sample)}
                    break
                except (OSError, ValueError):
                    if sample is self.samples[-1]:
                        raise
        return self._first


class _Native(NamedTuple):
    """An image as its camera wrote it."""

    path: Path
    size: tuple[int, int]
    turned: bool

    @classmethod
    def of(cls, raster: Raster, file: ViewFile) -> _Native:
        height, width = _part(raster.values, file).shape[:2]
        return cls(raster.path, (height, width), raster.turned)


def _views(samples: Sequence[Sample], cameras: Cameras | None) -> list[str]:
    found = sorted({view for sample in samples for view in sample.images}, key=natural_key)
    if cameras is not None and set(cameras.views) != set(found):
        missing = [view for view in cameras.views if view not in found]
        extra = [view for view in found if view not in cameras.views]
        wrong = [f"none of {', '.join(missing)}"] * bool(missing) + [f"unexpected {', '.join(extra)}"] * bool(extra)
        raise ValueError(
            f"MultiViewDataset: samples must have the views {', '.join(cameras.views)}, as the rig or detector was "
            f"made with, got {' and '.join(wrong)}; rename the files, or use a rig and a detector of these cameras"
        )
    views = found if cameras is None else list(cameras.views)
    for sample in samples:
        missing = [view for view in views if view not in sample.images]
        if missing:
            raise ValueError(
                f"MultiViewDataset: sample {sample.id} ({sample.split}/{sample.defect}) must have every view "
                f"of {views}, got none for {', '.join(missing)}; add the image or remove the sample"
            )
    return views


def _size(size: int | tuple[int, int] | None, cameras: Cameras | None) -> tuple[int, int] | None:
    size = (size, size) if isinstance(size, int) else size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"MultiViewDataset: size must be (height, width) of at least 1, got {size}; choose another")
    if cameras is None or size is None:
        return size if cameras is None else cameras.size
    if size != cameras.size:
        raise ValueError(
            f"MultiViewDataset: size must be {in_pixels(cameras.size)}, as the rig or detector was made with, "
            f"got {in_pixels(size)}; leave it out"
        )
    return size


def _part(values: np.ndarray, file: ViewFile) -> np.ndarray:
    width = values.shape[1]
    if width % file.parts:
        raise ValueError(
            f"MultiViewDataset: {file.path} must be {file.parts} views of equal width side by side, "
            f"got {width} pixels; export it again"
        )
    width //= file.parts
    return values[:, file.part * width : (file.part + 1) * width]


def _check_mask(mask: np.ndarray, file: ViewFile, image: _Native) -> None:
    if mask.shape == image.size:
        return
    turned = " (turned by its EXIF orientation)" if image.turned else ""
    raise ValueError(
        f"MultiViewDataset: {file.path} must be {in_pixels(image.size)} like its image {image.path}{turned}, "
        f"got {in_pixels(mask.shape)}; export the mask at the image's size"
    )
