"""Files of pictures as arrays of what they store, with errors that name the file and the remedy.

Pillow decodes, because OpenCV returns None for a broken file and half a picture for a truncated one. Of color with 16
bits Pillow gives the upper 8; there OpenCV reads what Pillow found to be whole. A PNG has checksums, and a JPEG is
watched; a BMP and a plain TIFF have none, so that damage inside them is not seen.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from vsad.data.jpeg import WatchedJpeg

PIXEL_LIMIT = 250_000_000
# What is read by content, whatever a file's name says; others of Pillow's start programs or hold no photographs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "DIB", "TIFF", "WEBP", "JPEG2000", "AVIF")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANAR, _SAMPLE_FORMAT = 258, 262, 274, 284, 339  # tags of TIFF
_TURNED = range(2, 9)  # or mirrored
_OPENING = threading.Lock()


class ImageError(ValueError):
    """A file is not the picture that it must be; the message says why, and the remedy."""


@dataclass(frozen=True)
class Raster:
    """What a file of a picture stores, upright.

    Args:
        path: the file.
        values: ``(H, W, C)`` uint8, uint16, int32 or float32; gray, RGB, or either with alpha, by C.
        depths: bits of which the smallest number that holds the values is significant, ascending.
        turned: the file has an orientation by which it was turned or mirrored.
        is_jpeg: values are rounded as JPEG does, so that flat areas are not flat.
    """

    path: Path
    values: np.ndarray
    depths: tuple[int, ...] = (8, 10, 12, 14, 16)
    turned: bool = False
    is_jpeg: bool = False

    @property
    def color(self) -> np.ndarray:
        """``(H, W, 1 or 3)``: the values without alpha."""
        return self.values[..., : 3 if self.values.shape[2] >= 3 else 1]

    @property
    def alpha(self) -> np.ndarray | None:
        """``(H, W, 1)``, where the file has it."""
        return None if self.values.shape[2] % 2 else self.values[..., -1:]


def decode(path: Path, pixel_limit: int = PIXEL_LIMIT) -> Raster:
    """Read what a file stores: one picture, turned as its EXIF orientation says.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: the file may not be read.
        ImageError: it is no picture, not whole, several pictures, or larger than ``pixel_limit``.
    """
    with _file(path) as file:
        is_jpeg = file.peek(3)[:3] == b"\xff\xd8\xff"
        jpeg = WatchedJpeg(file.read((1 << 24) + 4 * pixel_limit)) if is_jpeg else None  # no picture takes more
        image = _header(path, jpeg or file, pixel_limit)
        deep, depths = _is_deep_color(path, image), _depths(image, file)
        turned = _tags(image).get(_ORIENTATION) in _TURNED  # Pillow turns TIFF while it loads
        image.load()
        if jpeg and jpeg.damage:
            raise ValueError(jpeg.damage)
        turned = turned or image.getexif().get(_ORIENTATION) in _TURNED  # EXIF of PNG may follow the pixels
        if not deep:
            return Raster(path, _values(ImageOps.exif_transpose(image)), depths, turned, is_jpeg)
        if turned:
            raise ImageError(
                f"read_image: {path} must be stored upright where its color has 16 bits, got an orientation that turns "
                "it; export it without the orientation"
            )
        file.seek(0)
        return Raster(path, _deep_color(path, file, image), depths)


def has_more_than_bytes(path: Path, pixel_limit: int = PIXEL_LIMIT) -> bool:
    """Tell from its head whether a file stores more than 8 bits; raises what ``decode`` raises."""
    with _file(path) as file:
        image = _header(path, file, pixel_limit)
        return _is_deep_color(path, image) or image.mode[0] in "IF"


@contextmanager
def _file(path: Path) -> Iterator[io.BufferedReader]:
    if "\0" in str(path):
        raise ImageError(f"read_image: {str(path)!r} must be a path, got a NUL character in it; correct the path")
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
            raise ImageError(f"read_image: {path} must be a file, got {kind}; rename it, or put the image there")
        file = path.open("rb")
    except FileNotFoundError:
        what = f"is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else "does not exist"
        raise FileNotFoundError(f"read_image: {path} {what}; restore the file or remove its entry") from None
    except PermissionError:
        raise PermissionError(f"read_image: {path} must be readable, got permission denied; chmod it") from None
    except OSError as error:
        raise OSError(f"read_image: {path} must be readable, got {error.strerror}; correct the path") from None
    with file:
        try:
            yield file
        except ImageError:
            raise
        except Exception as error:  # A broken file leads its decoder to raise nearly anything: struct.error, KeyError.
            raise ImageError(
                f"read_image: {path} must be a complete image, got {str(error) or type(error).__name__}; "
                "copy or export the file again, as PNG for example"
            ) from error


def _header(path: Path, file: BinaryIO, pixel_limit: int) -> ImageFile.ImageFile:
    start = file.read(16)
    file.seek(0)
    with _OPENING:
        # Pillow's own limit warns at one size, and raises at twice that; ours is the caller's.
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=_FORMATS)
        except (Image.UnidentifiedImageError, KeyError):  # the latter of a Pillow that knows no AVIF
            kind = "a TIFF of floating point in color, or of another kind that is not read"
            what = kind if start[:4] in (b"II*\0", b"MM\0*") else f"what begins with {start!r}"
            raise ValueError(what if start else "an empty file") from None
        finally:
            Image.MAX_IMAGE_PIXELS = saved
    width, height = image.size
    if not width * height:
        raise ValueError(f"one of {width} x {height} pixels")
    if width * height > pixel_limit:
        raise ImageError(
            f"read_image: {path} must have at most {pixel_limit:,} pixels, got {width} x {height}; "
            "raise the limit (pixel_limit=, --pixel-limit) if it is meant to be so large"
        )
    # The further pictures of a JPEG are previews and gain maps of the first.
    pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pictures > 1:
        raise ImageError(
            f"read_image: {path} must hold one picture, got {pictures} pages or frames; store each in its own file"
        )
    return image


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; none of another format."""
    return getattr(image, "tag_v2", {})


def _is_deep_color(path: Path, image: ImageFile.ImageFile) -> bool:
    """Tell whether Pillow would give 8 of 16 bits; refuse what it would give wrongly."""
    is_gray = image.mode[0] in "IF"
    if image.format == "TIFF":
        tags = _tags(image)
        deep = max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8
        signed = not is_gray and 2 in tags.get(_SAMPLE_FORMAT, (1,))
        inverted = deep and tags.get(_PHOTOMETRIC) == 0
        planes = deep and not is_gray and (tags.get(_PLANAR, 1) == 2 or image.mode not in ("RGB", "RGBA", "RGBX"))
        if signed or inverted or planes:
            what = "signed bytes" if signed else "white as 0" if inverted else f"{image.mode} or separate planes"
            raise ImageError(
                f"read_image: {path} must store unsigned gray, black as 0, or interleaved RGB, got TIFF with {what}; "
                "export it as such"
            )
        return deep and not is_gray
    if image.format == "PPM":
        return image.mode == "RGB" and _maximum(image) == 65535
    return not is_gray and bool(image.tile) and ";16" in str(image.tile[0][3])


def _maximum(image: ImageFile.ImageFile) -> int:
    """What Pillow scales a Netpbm file's values by; 0 where it takes them as they are."""
    codec, _, _, arguments = image.tile[0]
    return arguments[1] if codec.startswith("ppm") and isinstance(arguments, tuple) else 0


def _depths(image: ImageFile.ImageFile, file: BinaryIO) -> tuple[int, ...]:
    if image.format == "TIFF" and 8 < (bits := max(_tags(image).get(_BITS_PER_SAMPLE, (1,)))) < 16:
        return (bits,)
    if image.format == "JPEG2000" or (image.format == "PPM" and 0 < _maximum(image) < 65535):
        return (16,)  # Pillow scales to all 16 bits by the depth that such a file gives
    if image.format == "PNG":
        position = file.tell()
        bits = _significant_bits(file)
        file.seek(position)
        if 8 < bits < 16:
            return (bits, 16)  # the format wants them scaled to 16 bits, which not every camera's program does
    return Raster.depths


def _significant_bits(file: BinaryIO) -> int:
    """The largest number in a PNG's sBIT chunk, 0 where it has none."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"sBIT":
            return max(file.read(min(length, 4)), default=0)
        if kind == b"IDAT":
            break
        file.seek(length + 4, os.SEEK_CUR)
    return 0


def _values(image: Image.Image) -> np.ndarray:
    if image.mode[0] not in "IF":
        if image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
    array = np.array(image)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array[..., None] if array.ndim == 2 else array


def _deep_color(path: Path, file: BinaryIO, image: Image.Image) -> np.ndarray:
    try:
        array = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        array = None
    if array is None or array.dtype != np.uint16 or array.shape[:2] != image.size[::-1] or array.ndim != 3:
        raise ImageError(f"read_image: {path} must be color that OpenCV can read, got 16 bits; export it with 8 bits")
    return array[..., [2, 1, 0, 3][: array.shape[2]]]
