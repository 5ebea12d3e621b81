"""What every layout is read into: samples of several views, as files, and what the cameras give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

GOOD = "good"
SPLITS = ("train", "test")


class ViewFile(NamedTuple):
    """The file of one view of one sample: an image of its own, or a part of a montage of views side by side.

    Args:
        path: the file.
        part: which part of the montage, from the left; 0 for an image of its own.
        parts: of how many equal parts; 1 for an image of its own.
    """

    path: Path
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Sample:
    """One physical object, photographed by every camera of the station.

    Args:
        category: what kind of product it is.
        id: its name, unique among the samples of its category and split.
        split: "train" or "test", or "new" for a sample of which nothing is known.
        defect: "good", or the kind of defect; None where it is not known.
        images: view name -> image.
        masks: view name -> mask, or None where that view shows no defect.
    """

    category: str
    id: str
    split: str
    defect: str | None
    images: Mapping[str, ViewFile]
    masks: Mapping[str, ViewFile | None]


@dataclass(frozen=True)
class Cameras:
    """What the cameras of a station give: a data set shows it, and a detector remembers it.

    Args:
        views: their names, in the order of the images' view axis.
        size: ``(height, width)`` that images have, or are resized to.
        depths: view name -> significant bits of its files: 8, or up to 16 where a camera stores 10 or 12 bits in
            files of 16; 0 for files of floating point in [0, 1].
        sizes: view name -> ``(height, width)`` of its files, which are resized to ``size``: files of another shape
            would show the surface stretched. Empty where that is not known.
    """

    views: tuple[str, ...]
    size: tuple[int, int]
    depths: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        size = {"height": self.size[0], "width": self.size[1]}
        sizes = {view: list(size) for view, size in self.sizes.items()}
        return {"views": list(self.views), **size, "depths": dict(self.depths), "sizes": sizes}

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Cameras:
        """Read ``content`` from JSON; sizes may be missing.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        views, size = tuple(map(str, content["views"])), (content["height"], content["width"])
        depths = dict(content["depths"])
        sizes = {view: (height, width) for view, (height, width) in content.get("sizes", {}).items()}
        sides = [*size, *(side for each in sizes.values() for side in each)]
        if not all(type(side) is int and side > 0 for side in sides) or not {*depths, *sizes} <= {*views}:
            raise ValueError(f"sizes {sizes} of the views {', '.join(views)}")
        if not all(type(bits) is int and 0 <= bits <= 31 for bits in depths.values()):
            raise ValueError(f"depths {depths}")
        return cls(views, size, depths, sizes)


def is_resized(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether a size is another one with both sides resized alike, to a pixel."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def in_pixels(size: tuple[int, ...]) -> str:
    """Write a size ``(height, width)`` as errors name it: width first."""
    return f"{size[1]} x {size[0]} pixels"
