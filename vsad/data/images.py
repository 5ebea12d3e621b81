"""Reading and writing images and masks, with errors that name the file and the remedy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def is_image(path: Path) -> bool:
    """Tell whether the name of ``path`` is that of a visible image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: Path | str) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB; 16-bit gray is scaled to 8 bits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no image, or only part of one.
    """
    return _decode(Path(path), "RGB")


def read_mask(path: Path | str) -> np.ndarray:
    """Read a mask as (H, W) float32 in [0, 1], 1 = defect; masks stored as 0/1 and as 0/255 read alike.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no image, or only part of one.
    """
    mask = _decode(Path(path), "L").astype(np.float32)
    return mask if mask.max(initial=0) <= 1 else mask / 255


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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.tobytes())


def resize_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width): the mean over each new pixel's area when shrinking, bilinear when growing."""
    height, width = size
    if image.shape[:2] == size:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _decode(path: Path, mode: str) -> np.ndarray:
    # Pillow, because OpenCV returns None for a broken file and half a picture for a truncated one.
    if not path.is_file():
        raise FileNotFoundError(f"read_image: {path} does not exist; restore the file or remove its entry")
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # convert() would clip 16 bits instead of scaling them
                return np.array(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode))
            return np.array(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"read_image: {path} must be a complete image, got {error}; copy or export the file again"
        ) from error
