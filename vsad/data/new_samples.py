"""Samples of which nothing is known, from the files and folders that a user names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vsad.data.grouping import group_by_view
from vsad.data.images import IMAGE_SUFFIXES
from vsad.data.listing import is_junk, readable_pictures, split_name, unread_pictures
from vsad.data.manta import is_montage, montage, picture_size
from vsad.data.naming import natural_key
from vsad.data.sample import Sample, ViewFile

NEW = "new"


class Found(NamedTuple):
    """New samples, in natural order.

    Args:
        complete: those that have every view.
        incomplete: sample id -> the views that are missing.
        unknown: images of which no view is known, and pictures that are not read.
    """

    complete: list[Sample]
    incomplete: dict[str, list[str]]
    unknown: list[Path]


def new_samples(inputs: Sequence[str | Path], views: Sequence[str], *, category: str = "") -> Found:
    """Find samples without labels, by the names of their files.

    Folders are looked through to the bottom. The names say sample and view as ``group_by_view`` reads them; an id is
    the path without the view, relative to the folder, or to what the inputs have in common. An image whose name says
    no view is a montage where it is as many square views side by side as there are views, or where it is the one input
    and its width can be divided by their number. Where there is one view, every image is a sample.

    Args:
        inputs: folders, images, and patterns such as ``parts/*_2026*.png``.
        views: the names of the views, as the detector has them; those of a montage from the left.
        category: what kind of product the samples are.

    Raises:
        FileNotFoundError: an input is not there, a pattern matches nothing, or there is no image.
        ValueError: an input is no image, names are ambiguous, or there is a data set; the message names the files.

    Example:
        >>> found = new_samples(["parts"], ["left", "right"])
        >>> [sample.id for sample in found.complete], found.incomplete
        (['0001', '0002'], {'0003': ['right']})
    """
    paths = [Path(path) for path in dict.fromkeys(path for each in inputs for path in _expand(each))]
    if not paths:
        raise FileNotFoundError("new_samples: inputs must name images or folders, got none; name some")
    base = _base(paths)
    files = _files(paths, base)
    grouped = group_by_view(readable_pictures(files), views)
    if grouped.ambiguous:
        more = f" ({len(grouped.ambiguous) - 1} more like this)" if len(grouped.ambiguous) > 1 else ""
        raise ValueError(f"new_samples: in {base}, {grouped.ambiguous[0]}{more}")
    # Files that lie in the base itself and are called after their views are the sample that the base is.
    own = base.resolve().name or "sample"
    found = {
        sample_id or own: {view: ViewFile(files[name]) for view, name in names.items()}
        for sample_id, names in sorted(grouped.complete.items())
    }
    incomplete = {sample_id or own: missing for sample_id, missing in grouped.incomplete.items()}
    unknown = [files[name] for name in unread_pictures(files)]
    is_only = len(files) == 1 and not paths[0].is_dir()
    for name in grouped.unknown:
        path, sample_id = files[name], split_name(name)[0]
        if is_montage(path, len(views)) or (is_only and picture_size(path)[0] % len(views) == 0):
            if sample_id in found or sample_id in incomplete:
                raise ValueError(f"new_samples: {path} must have a name of its own, got that of a sample; rename it")
            found[sample_id] = montage(path, views)
        else:
            unknown.append(path)
    if own in grouped.complete | grouped.incomplete and "" in grouped.complete | grouped.incomplete:
        raise ValueError(f"new_samples: {base} must hold a sample or be one, got both of the name {own}; rename one")
    complete = [Sample(category, name, NEW, None, found[name], {}) for name in sorted(found, key=natural_key)]
    return Found(complete, incomplete, unknown)


def _files(paths: Sequence[Path], base: Path) -> dict[str, Path]:
    """The files in and of the paths, by their names relative to the base; some of them are images.

    A file that is named twice, as in a folder and alone, counts once.
    """
    listed = [name for path in paths for name in (_walk(path) if path.is_dir() else [os.fspath(path)])]
    files = {os.path.relpath(file, base).replace(os.sep, "/"): Path(file) for file in listed}
    if not readable_pictures(files):
        endings = sorted({split_name(name)[1] or "nothing" for name in files})
        raise FileNotFoundError(
            f"new_samples: {', '.join(map(str, paths[:3]))} must hold images that end in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}, got "
            f"{'files ending in ' + ' '.join(endings) if endings else 'no files'}; convert them, or name another folder"
        )
    for name in files:
        if "ground_truth" in name and "ground_truth" in name.split("/"):
            raise ValueError(
                f"new_samples: {base} must hold new samples, got a data set with masks in ground_truth; name the "
                "folder of the samples, or open it as a data set"
            )
    return files


def _expand(path: str | Path) -> list[str]:
    """The path itself, or what a pattern matches, in natural order."""
    text = os.path.normpath(path)
    if os.path.lexists(text):
        _check_file(text)
        return [text]
    if not glob.has_magic(text):
        raise FileNotFoundError(
            f"new_samples: {text} must be an image, a folder or a pattern, got none; check the path"
        )
    found = [match for match in glob.glob(text, recursive=True) if not is_junk(os.path.basename(match))]
    if not found:
        raise FileNotFoundError(f"new_samples: {text} must match images or folders, got none; check the pattern")
    return sorted(found, key=natural_key)


def _check_file(path: str) -> None:
    if not os.path.isdir(path) and not readable_pictures([path]):
        raise ValueError(
            f"new_samples: {path} must be a folder or an image that ends in {' '.join(sorted(IMAGE_SUFFIXES))}, "
            f"got {split_name(path)[1] or 'no ending'}; convert it"
        )


def _base(paths: Iterable[Path]) -> Path:
    """The folder that ids are relative to: a folder that is named alone, or what holds all that are named."""
    paths = list(paths)
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0]
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))


def _walk(folder: str | Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Name every visible file below a folder; a link to a folder that it lies in is not followed."""
    if not above:
        above = (os.path.realpath(folder),)
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if not is_junk(entry.name)]
    for entry in inside:
        if not entry.is_dir():
            yield entry.path
        elif not entry.is_symlink():
            yield from _walk(entry.path, above)
        else:
            target = os.path.realpath(entry.path)
            here = os.path.realpath(folder)
            if not any(f"{path}{os.sep}".startswith(f"{target}{os.sep}") for path in (*above, here)):
                yield from _walk(entry.path, (*above, here, target))
