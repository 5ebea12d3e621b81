"""The samples that a calibration looks at, as gray pictures of one working size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsad.calibration.matching import gray_picture
from vsad.checks import check_images
from vsad.geometry import Size

# Features are looked for at a long side between these: smaller images have too few, larger ones take too long.
_WORK_SIDE = (256, 800)
# A picture whose gray levels of 255 deviate less shows nothing, whatever the noise.
_BLANK = 1.0
# An inlier errs by at most this share of the image diagonal, which is 362 pixels for an image of 256 x 256.
_INLIER = 0.004


class Samples:
    """Gray pictures at working size, by sample and view, and what all of them share.

    ``size`` is the working size, at which features are found, ``image_size`` that of the given images; ``diagonal``
    and ``tolerance``, the reprojection error of a right match, are in pixels of the working size. ``blank`` views show
    nothing in any sample, ``twins`` are pairs of views that hold the same pictures in all of them.

    Args:
        views: names of the views.
    """

    def __init__(self, views: Sequence[str]) -> None:
        self.views = tuple(views)
        self.image_size: Size = (0, 0)
        self.size: Size = (0, 0)
        self.pictures: list[list[np.ndarray]] = []
        self.blank = set(range(len(self.views)))
        self.twins = set(itertools.combinations(range(len(self.views)), 2))

    def add(self, images: Tensor) -> None:
        """Take one more sample's ``images (V, 3, H, W)``.

        Raises:
            TypeError: no tensor of floating point.
            ValueError: a wrong shape, another size than the first sample's, or values that are not in [0, 1].
        """
        check_images(f"calibrate: sample {len(self.pictures)}", images, (len(self.views), 3, "H", "W"))
        height, width = images.shape[2:]
        if not self.pictures:
            if min(height, width) < 1:
                raise ValueError(f"calibrate: images must have pixels, got {height} x {width}; resize to a larger size")
            scale = min(max(height, width, _WORK_SIDE[0]), _WORK_SIDE[1]) / max(height, width)
            self.image_size = (height, width)
            self.size = (round(height * scale) or 1, round(width * scale) or 1)
            self.diagonal = math.hypot(*self.size)
            self.tolerance = _INLIER * self.diagonal
        elif (height, width) != self.image_size:
            raise ValueError(
                f"calibrate: sample {len(self.pictures)} must be of {self.image_size} pixels (height, width) like the "
                f"first, got {(height, width)}; resize the images to one size"
            )
        self.pictures.append([gray_picture(image, self.size) for image in images])
        self.blank = {view for view in self.blank if self.pictures[-1][view].std() < _BLANK}
        self.twins = {(a, b) for a, b in self.twins if torch.equal(images[a], images[b])}

    @property
    def scale(self) -> Tensor:
        """Pixels of the given images per pixel of the working size, along x and y, ``(2,)`` float64."""
        (height, width), (rows, columns) = self.image_size, self.size
        return torch.tensor([width / columns, height / rows], dtype=torch.float64)


def choose_samples(images_per_sample: Any, count: int) -> tuple[Iterable[Any], int]:
    """Return evenly spread items of a data set, or the first items of an iterable, and how many to expect."""
    if not (hasattr(images_per_sample, "__len__") and hasattr(images_per_sample, "__getitem__")):
        return itertools.islice(images_per_sample, count), count
    total = len(images_per_sample)
    indices = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return (images_per_sample[index] for index in indices), len(indices)


def view_names(images_per_sample: Any, views: Sequence[str] | None) -> list[str]:
    """The names that are given, or the data set's own.

    Raises:
        ValueError: there are none.
    """
    names = list(getattr(images_per_sample, "views", ()) if views is None else views)
    if not names:
        raise ValueError("calibrate: views must name the views, since images_per_sample has no names of its own")
    return names
