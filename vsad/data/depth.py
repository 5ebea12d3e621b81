"""How many bits of a file are significant: cameras store 10 or 12 bits in files of 16."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vsad.data.decode import PIXEL_LIMIT, Raster, decode, has_more_than_bytes
from vsad.data.read_ahead import read_ahead

_FILES = 200
_FINDING = threading.Lock()


def significant_bits(raster: Raster) -> int:
    """Give the bits that hold a file's values: 8 for bytes, 0 for floating point, else as ``Raster.depths`` says.

    Raises:
        ValueError: values are negative, not finite, floating point beyond [0, 1], or of more bits than 16.
    """
    largest = _largest(raster)
    if raster.values.dtype.kind == "f":
        return 0
    if raster.values.dtype == np.uint8:
        return 8
    for bits in raster.depths:
        if largest < 1 << bits:
            return bits
    raise ValueError(
        f"read_image: {raster.path} must hold values up to 65535 where their depth is not known, got {largest:.0f}; "
        f"pass depth={int(largest).bit_length()} (--depth), or export it with 16 bits"
    )


def to_rgb(raster: Raster, depth: int | None = None) -> np.ndarray:
    """Make RGB of a raster: bytes stay bytes, other values become float32 in [0, 1].

    Gray is repeated; transparent pixels become black, as over a black ground; color profiles are not applied.

    Args:
        raster: what the file stores.
        depth: significant bits of integers of more than 8; those of the file itself where None.

    Returns:
        ``(H, W, 3)`` uint8, or float32 where the file stores more than 8 bits.

    Raises:
        ValueError: values that the depth does not hold, or as ``significant_bits``.
    """
    color, alpha = raster.color, raster.alpha
    if color.dtype == np.uint8:
        if alpha is not None and alpha.min(initial=255) < 255:
            color = ((color.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
        return color if color.shape[2] == 3 else np.repeat(color, 3, 2)
    if alpha is not None and not alpha.min() == alpha.max() > 0:
        raise ValueError(
            f"read_image: {raster.path} must be opaque where it has 16 bits, got transparent pixels; "
            "export it without the alpha channel"
        )
    bits = significant_bits(raster) if depth is None or color.dtype.kind == "f" else depth
    limit = (1 << bits) - 1 or 1
    largest = _largest(raster)
    if largest > limit or (bits == 0 and color.dtype.kind != "f"):
        known = f"up to {limit}, {bits} bits" if bits else "of floating point"
        needed = int(largest).bit_length()
        raise ValueError(
            f"read_image: {raster.path} must hold values {known}, as is known of its camera, got {largest:.0f}; "
            f"pass depth={needed} (--depth {needed}), here and in training, if the camera gives so many bits"
        )
    scaled = color.astype(np.float32) / np.float32(limit)
    return scaled if scaled.shape[2] == 3 else np.repeat(scaled, 3, 2)


class CameraDepths:
    """The significant bits of each camera's files, found when first asked for: the most that one of its files has.

    Args:
        files: view name -> its files; up to some 200 of them, evenly spaced, are looked at.
        known: view name -> bits, where they are known; nothing is looked at for these.
        pixel_limit: as for ``decode``.
    """

    def __init__(
        self, files: Mapping[str, Sequence[Path]], known: Mapping[str, int], pixel_limit: int = PIXEL_LIMIT
    ) -> None:
        self._files = {view: _evenly(paths) for view, paths in files.items()}
        self._bits: dict[str, int | None] = {view: known[view] for view in files if view in known}
        self._pixel_limit = pixel_limit

    def of(self, view: str) -> int | None:
        """Give a view's bits; None where none of its files can be read."""
        with _FINDING:
            if view not in self._bits:
                found = self._look(self._files[view])
                for other, files in self._files.items():
                    if files == self._files[view]:  # the views of a montage share their files
                        self._bits.setdefault(other, found)
            return self._bits[view]

    def _look(self, files: Sequence[Path]) -> int | None:
        found = [bits for bits in read_ahead(self._bits_of, files) if bits is not None]
        return max(found, default=None)

    def _bits_of(self, path: Path) -> int | None:
        try:
            if not has_more_than_bytes(path, self._pixel_limit):
                return 8
            return significant_bits(decode(path, self._pixel_limit))
        except (OSError, ValueError):  # refused when its sample is read
            return None


def _evenly(paths: Sequence[Path]) -> list[Path]:
    step = max(1, -(-len(paths) // _FILES))
    return list(paths[::step])


def _largest(raster: Raster) -> float:
    """The largest value, after those that nobody means are refused."""
    low, high = float(raster.color.min()), float(raster.color.max())
    is_float = raster.values.dtype.kind == "f"
    if not (low >= 0 and high < np.inf) or (is_float and high > 1):  # NaN is not >= 0
        rule = "finite and in [0, 1], being floating point" if is_float else "non-negative"
        remedy = "scale them, or export 16-bit integers" if is_float else "export unsigned integers"
        raise ValueError(f"read_image: {raster.path} must hold values {rule}, got {low:.4g} to {high:.4g}; {remedy}")
    return high
