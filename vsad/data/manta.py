"""The layout of MANTA and MANTA-Tiny: that of MVTec AD, where an image is a montage of views side by side.

MANTA-Tiny's 1280 x 256 pixels are five square views; views are named ``1`` to ``5`` from the left.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vsad.data.listing import Listing
from vsad.data.mvtec import read_pictures
from vsad.data.sample import ViewFile

VIEWS = 5


def read_manta(root: Path, category: str, split: str) -> Listing:
    """List the samples of one split of the category in ``root``.

    An image whose width is a multiple of its height holds that many square views, any other five of equal width. A
    sample is not whole either where its image holds another number of views than the first one.

    Raises:
        FileNotFoundError: the split, or its images, are not there.
        ValueError: more folders than images lie there.
    """
    first: tuple[Path, int] | None = None

    def views_of(path: Path) -> dict[str, ViewFile]:
        nonlocal first
        width, height = picture_size(path)
        parts = width // height if width % height == 0 and width > height else VIEWS
        if width % parts:
            raise ValueError(
                f"open_dataset: {path} must be a montage of {parts} views of equal width, got {width} x {height} "
                "pixels; export it again"
            )
        first = first or (path, parts)
        if parts != first[1]:
            raise ValueError(
                f"open_dataset: {path} must hold {first[1]} views side by side like {first[0]}, got {width} x {height} "
                f"pixels, which are {parts}; export it again"
            )
        return montage(path, [str(number + 1) for number in range(parts)])

    return read_pictures(root, category, split, views_of)


def montage(path: Path, views: Sequence[str]) -> dict[str, ViewFile]:
    """Name the parts of a montage, from the left."""
    return {view: ViewFile(path, part, len(views)) for part, view in enumerate(views)}


def is_montage(path: Path, views: int = VIEWS) -> bool:
    """Tell whether an image is that many square views side by side; one that cannot be read is not."""
    try:
        width, height = picture_size(path)
    except ValueError:
        return False
    return width == views * height


def picture_size(path: Path) -> tuple[int, int]:
    """Read the (width, height) of an image from the head of its file.

    Raises:
        ValueError: the file is no image, or cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decompressed
            with Image.open(path) as image:
                return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"open_dataset: {path} must be an image, got {error}; copy or export the file again") from None
