"""What lies in folders as people have them; what system software leaves in folders is passed over.

A folder is read in one pass, and comes in natural order: part2 before part10.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vsad.data.images import IMAGE_SUFFIXES
from vsad.data.naming import natural_key
from vsad.data.sample import GOOD, Sample
from vsad.files import first_of

# What Synology, macOS, Linux and Windows put beside people's files; hidden files are passed over as well.
_JUNK = frozenset(
    {"@eadir", "#recycle", "__macosx", "lost+found", "$recycle.bin", "system volume information", "thumbs.db"}
)
# Pictures, and films, that cameras and phones write and that are not read.
# fmt: off
_OTHER_PICTURES = frozenset({
    ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".heic", ".heif", ".avif", ".jxl", ".jp2",
    ".j2k", ".jpx", ".jxr", ".jfif", ".jpe", ".gif", ".dib", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".exr", ".hdr",
    ".tga", ".pcx", ".psd", ".svg", ".ico", ".dcm", ".npy", ".npz", ".mp4", ".avi", ".mov", ".mkv", ".pdf",
}) - IMAGE_SUFFIXES
# fmt: on


class Listing(NamedTuple):
    """The samples of a split.

    Args:
        samples: those that are whole, in natural order.
        bad: the id of each other sample, and why it is not whole.
    """

    samples: list[Sample]
    bad: dict[str, str]


@contextmanager
def keeping_everything() -> Iterator[None]:
    """Look for no garbage meanwhile; as a decorator, for functions that make very many small objects and keep them.

    To look through half a million of them again and again takes as long as to make them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def is_junk(name: str) -> bool:
    """Tell whether a file or folder of this name is none of the user's."""
    return name.startswith(".") or name.casefold() in _JUNK


def split_name(name: str) -> tuple[str, str]:
    """Split a file's name into stem and ending, the ending in small letters."""
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()


def folders(parent: Path) -> list[Path]:
    """List the folders in ``parent``; none where it is no folder."""
    if not parent.is_dir():
        return []
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if not is_junk(entry.name) and entry.is_dir()]
    return [parent / name for name in sorted(names, key=natural_key)]


def pictures(folder: Path) -> list[Path]:
    """List the images in ``folder``.

    Raises:
        ValueError: there are pictures that are not read.
    """
    read, unread = sorted_pictures(folder)
    if unread:
        raise ValueError(why_unread(unread))
    return read


def sorted_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images in ``folder``, and the pictures that are not read."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_junk(entry.name) and not entry.is_dir()]
    read = sorted(readable_pictures(names), key=natural_key)
    return [folder / name for name in read], [folder / name for name in unread_pictures(names)]


def why_unread(paths: list[Path]) -> str:
    """Say in words why pictures of one folder are not read."""
    got = first_of([path.name for path in paths], 1)
    return f"{paths[0].parent}: images must end in {_any_of(IMAGE_SUFFIXES)}, got {got}; convert them"


def readable_pictures(names: Iterable[str]) -> list[str]:
    """Keep the names of images that are read."""
    return [name for name in names if split_name(name)[1] in IMAGE_SUFFIXES]


def unread_pictures(names: Iterable[str]) -> list[str]:
    """Keep the names of pictures that are not read, but for copies of those that are (``left.raw`` by ``left.png``)."""
    names = list(names)
    found = [name for name in names if split_name(name)[1] in _OTHER_PICTURES]
    if not found:
        return []
    read = {split_name(name)[0] for name in readable_pictures(names)}
    return sorted((name for name in found if split_name(name)[0] not in read), key=natural_key)


def nothing_to_read(folder: Path) -> str:
    """Say in words what a folder without an image holds, and which endings are read."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_junk(entry.name) and not entry.is_dir()]
    endings = {split_name(name)[1] or "nothing" for name in names}
    held = f"only files ending in {_any_of(endings)}" if names else "no files"
    return f"{held}; images that end in {_any_of(IMAGE_SUFFIXES)} are read"


def walk(folder: str, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Give every visible file below a folder: its name relative to the folder, with ``/``, and its path.

    A link to a folder that the walk has come through is not followed.

    Args:
        folder: where to begin.
        prefix: what names begin with.
        above: the folders that links have led through.
    """
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if not is_junk(entry.name)]
    for entry in inside:
        if not entry.is_dir():
            yield prefix + entry.name, entry.path
        elif not entry.is_symlink():
            yield from walk(entry.path, f"{prefix}{entry.name}/", above)
        else:
            target = os.path.realpath(entry.path)
            through = (*above, os.path.realpath(folder))
            if not any(f"{path}{os.sep}".startswith(f"{target}{os.sep}") for path in through):
                yield from walk(entry.path, f"{prefix}{entry.name}/", (*through, target))


def kinds(root: Path, split: str, holds: str) -> list[Path]:
    """List the folders ``good`` and ``<defect>`` of one split of the category in ``root``.

    Args:
        root: the category's folder.
        split: "train" or "test".
        holds: what a folder ``good`` holds, for errors: ``<sample>/<view>.png``.

    Raises:
        FileNotFoundError: the split, or its normal images, are not there.
    """
    found = folders(root / split)
    if split == "train" and not any(kind.name == GOOD for kind in found):
        raise FileNotFoundError(
            f"open_dataset: {root / 'train' / GOOD} must hold normal samples, got no such folder beside "
            f"{', '.join(kind.name for kind in found) or 'nothing'}; put each normal object in train/good/{holds}"
        )
    if not (root / split).is_dir():
        raise FileNotFoundError(
            f"open_dataset: {root} must hold a folder {split}, got none; put samples in {split}/<kind>/{holds}"
        )
    return found


def _any_of(endings: Iterable[str]) -> str:
    return " ".join(sorted(endings))
