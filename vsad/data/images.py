"""Reading and writing images, with errors that name the file and the remedy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vsad.data.decode import PIXEL_LIMIT, decode
from vsad.data.depth import to_rgb
from vsad.files import write_bytes

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".avif"}
)


def is_image(path: Path) -> bool:
    """Tell whether the name of ``path`` is that of a visible image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: Path | str, *, depth: int | None = None, pixel_limit: int = PIXEL_LIMIT) -> np.ndarray:
    """Read an image as (H, W, 3) RGB: uint8, or float32 in [0, 1] where the file stores more than 8 bits.

    An EXIF orientation is honored, and transparent pixels become black. Integers of more than 8 bits are divided by
    the largest number of their depth, floating point must be in [0, 1].

    Args:
        path: the file.
        depth: significant bits of integers of more than 8, as a camera that stores 12 bits in files of 16; the smallest
            of 8, 10, 12, 14 and 16 that holds the values of this file where None.
        pixel_limit: larger images are refused before they are decoded.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: the file may not be read.
        ValueError: the file is no image, only part of one, or its values are not as they must be.
    """
    return to_rgb(decode(Path(path), pixel_limit), depth)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB or (H, W) uint8 gray as the suffix says; missing folders are made.

    Raises:
        ValueError: OpenCV cannot encode such an array.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    quality = [cv2.IMWRITE_JPEG_QUALITY, 97] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, buffer = cv2.imencode(path.suffix, stored, quality)
    if not done:
        raise ValueError(f"write_image: {path} must be an image OpenCV can encode, got {stored.dtype} {stored.shape}")
    write_bytes(path, buffer.tobytes())


def resize_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width): the mean over each new pixel's area when shrinking, bilinear when growing."""
    height, width = size
    if image.shape[:2] == size:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
