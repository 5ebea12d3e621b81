"""Copies of a station's pictures without what its lenses bend."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vsad.calibration import Lens, save_lenses
from vsad.data.decode import PIXEL_LIMIT, ImageError, Raster, decode
from vsad.data.depth import to_rgb
from vsad.data.images import IMAGE_SUFFIXES, write_image
from vsad.data.listing import split_name, walk
from vsad.data.masks import read_mask
from vsad.data.naming import natural_key
from vsad.data.read_ahead import read_ahead
from vsad.files import atomic_folder, check_writable, first_of
from vsad.progress import SILENT, Progress

# What lies below a folder of this name are masks.
_TRUTH = "ground_truth"
# The lenses that were taken out of a folder's pictures: never twice.
MARK = "undistorted.json"


@dataclass
class Undistorted:
    """What became of a folder's files.

    Args:
        pictures: number of pictures that were undistorted, by view.
        masks: likewise, of masks.
        as_they_are: number of files that were copied as they are, by view: there is no lens for it.
        unread: files that were copied as they are since they cannot be read, and why.
        left_out: files that are no pictures.
        depths: significant bits that pictures state of themselves, which a copy does not.
    """

    pictures: Counter[str] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    as_they_are: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    depths: set[int] = field(default_factory=set)

    def problems(self) -> list[str]:
        """What the user should know, in words."""
        said = []
        if self.as_they_are:
            views = ", ".join(f"{view} ({count} files)" for view, count in self.as_they_are.items())
            said.append(f"there is no lens for {views}, copied as they are")
        if self.unread:
            said.append(f"copied as they are, as they cannot be read: {first_of(list(self.unread.values()))}")
        if self.left_out:
            said.append(f"not copied, as they are no pictures: {first_of(self.left_out)}")
        for depth in sorted(self.depths):
            said.append(f"pictures say that {depth} bits count, which copies do not: give --depth {depth} from now on")
        return said


class _File(NamedTuple):
    """A picture to be copied: its name in the folder and its copy's, its view, and whether it is a mask."""

    name: str
    copy: str
    view: str
    is_mask: bool


def undistort_folder(
    folder: Path,
    out: Path,
    lenses: Mapping[str, Lens],
    *,
    camera: str | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    progress: Progress = SILENT,
) -> Undistorted:
    """Copy a folder of pictures, those of views that have a lens undistorted.

    Folders and names stay. Copies are PNG of as many bits, whatever the pictures were, so that nothing is lost to
    compression a second time. Files below a folder ``ground_truth`` are masks, of which no values are mixed. What
    cannot be read is copied as it is: every later step names it.

    Args:
        folder: ``.../<view>.png`` at any depth.
        out: a new or empty folder, which gets all copies at the end, or nothing.
        lenses: by the names of the views.
        camera: the view of all pictures, whatever their names; None: a picture has the name of its view.
        pixel_limit: larger images are refused.
        progress: told of the pictures that are done.

    Returns:
        What became of the files.

    Raises:
        FileNotFoundError: no such folder.
        FileExistsError: ``out`` holds something.
        ValueError: the pictures are copies already, none is of a view that has a lens, one is of another size than its
            lens or of floating point, or two would have one copy.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of pictures; check the path")
    if (folder / MARK).exists():
        raise ValueError(
            f"{folder} must hold pictures as the cameras wrote them, got undistorted ones, as its {MARK} says; name "
            "the folder that they were made of"
        )
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} must be a new or empty folder, got one that holds files; name another")
    check_writable(out)
    done = Undistorted()
    files = _files(folder, lenses, camera, done)

    def copy(file: _File) -> tuple[_File, str, tuple[int, ...]]:
        if file.view not in lenses:
            _copy(folder / file.name, new / file.name)
            return file, "", Raster.depths
        try:
            values, depths = _read(folder / file.name, file.is_mask, pixel_limit)
        except ImageError as error:
            _copy(folder / file.name, new / file.name)
            return file, str(error), Raster.depths
        try:
            straight = lenses[file.view].undistort(values, is_mask=file.is_mask)
        except ValueError as error:
            raise ValueError(f"{folder / file.name}: {error}") from None
        write_image(new / file.copy, straight)
        return file, "", depths

    with atomic_folder(out) as new:
        save_lenses(new / MARK, lenses)
        for file, unread, depths in progress.track(read_ahead(copy, files), "undistorting", len(files)):
            if unread:
                done.unread[file.name] = unread
            elif file.view not in lenses:
                done.as_they_are[file.view] += 1
            else:
                (done.masks if file.is_mask else done.pictures)[file.view] += 1
            if depths != Raster.depths:
                done.depths.add(depths[0])
    return done


def _files(folder: Path, lenses: Mapping[str, Lens], camera: str | None, done: Undistorted) -> list[_File]:
    """The pictures below a folder, in natural order."""
    if camera is not None and camera not in lenses:
        raise ValueError(f"camera must be one that has a lens, {', '.join(lenses)}, got {camera!r}; choose one of them")
    files: dict[str, _File] = {}
    for name, _ in sorted(walk(str(folder)), key=lambda found: natural_key(found[0])):
        path = PurePosixPath(name)
        stem, suffix = split_name(path.name)
        if suffix not in IMAGE_SUFFIXES:
            done.left_out.append(name)
            continue
        is_mask = _TRUTH in path.parts[:-1]
        view = camera or (_view_of_mask(stem, lenses) if is_mask else stem)
        copy = str(path.with_suffix(".png")) if view in lenses else name
        if copy in files:
            raise ValueError(
                f"{folder} must hold one file per view, got {files[copy].name} and {name}; remove one of them"
            )
        files[copy] = _File(name, copy, view, is_mask)
    seen = sorted({file.view for file in files.values() if not file.is_mask}, key=natural_key)
    if not set(seen) & set(lenses):
        raise ValueError(
            f"{folder} must hold pictures named as the views that have a lens, {', '.join(lenses)}, got "
            f"{', '.join(seen[:5]) or 'no pictures'}; rename them, or name the one camera that all of them are of "
            "(--camera)"
        )
    return list(files.values())


def _view_of_mask(stem: str, lenses: Mapping[str, Lens]) -> str:
    """The view that a mask is of: ``<view>`` or ``<view>_mask``, its letters small or capital."""
    views = {view.casefold(): view for view in lenses}
    name = stem.casefold()
    return stem if stem in lenses else views.get(name) or views.get(name.removesuffix("_mask")) or stem


def _read(path: Path, is_mask: bool, pixel_limit: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """The values of a picture, ``(H, W)`` or ``(H, W, 3)``, or 0 and 255 of a mask; and the depths of the file."""
    if is_mask:
        return np.where(read_mask(path, pixel_limit=pixel_limit) >= 0.5, np.uint8(255), np.uint8(0)), Raster.depths
    raster = decode(path, pixel_limit)
    if raster.values.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{path} must have 8 or 16 bits to be undistorted, got {raster.values.dtype}; export it with 16 bits"
        )
    values = raster.color
    if raster.alpha is not None:
        opaque = to_rgb(raster)  # refuses transparent pixels of 16 bits
        values = opaque if values.dtype == np.uint8 else values
    return values[..., 0] if values.shape[2] == 1 else values, raster.depths


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
