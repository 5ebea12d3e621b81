"""Samples of which nothing is known, from the files and folders that a user names."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vsad.data.grouping import group_by_view
from vsad.data.images import IMAGE_SUFFIXES
from vsad.data.listing import is_junk, keeping_everything, readable_pictures, split_name, unread_pictures, walk
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
        ambiguous: sample id, or image whose name says several views -> why nobody can tell what it is, in words.
    """

    complete: list[Sample]
    incomplete: dict[str, list[str]]
    unknown: list[Path]
    ambiguous: dict[str, str]


@keeping_everything()
def new_samples(inputs: Sequence[str | Path], views: Sequence[str], *, category: str = "") -> Found:
    """Find samples without labels, by the names of their files; those whose names are ambiguous stop no others.

    Folders are looked through to the bottom. The names say sample and view as ``group_by_view`` reads them; an id is
    the path without the view, relative to the smallest folder that holds all inputs. An image whose name says
    no view is a montage where it is as many square views side by side as there are views, or where it is the one input
    and its width can be divided by their number. Where there is one view, every image is a sample.

    Args:
        inputs: folders, images, and patterns such as ``parts/*_2026*.png``.
        views: the names of the views, as the detector has them; those of a montage from the left.
        category: what kind of product the samples are.

    Raises:
        FileNotFoundError: an input is not there, a pattern matches nothing, or there is no image.
        ValueError: an input is no image, or there is a data set; the message names the files.

    Example:
        >>> found = new_samples(["station/test/good"], ["C1", "C2", "C3", "C4", "C5"])
        >>> [sample.id for sample in found.complete]
        ['0000']
        >>> new_samples(["station/test/good/0000/C*.png"], ["C1", "C9"]).incomplete
        {'0000': ['C9']}
    """
    paths = [Path(path) for path in dict.fromkeys(path for each in inputs for path in expand(each))]
    if not paths:
        raise FileNotFoundError("new_samples: inputs must name images or folders, got none; name some")
    base = Path(os.path.commonpath([os.path.abspath(_anchor(each)) for each in inputs]))
    files = _files(paths, base)
    if not readable_pictures(files):
        raise _nothing_to_read(paths, list(files))
    is_only = len(files) == 1 and not paths[0].is_dir()
    return samples_among(files, views, base.name or "sample", category=category, is_only=is_only)


def samples_among(
    files: Mapping[str, str], views: Sequence[str], own: str, *, category: str = "", is_only: bool = False
) -> Found:
    """Tell samples by the names of files; what is ambiguous concerns no other sample.

    Args:
        files: paths, by names relative to one folder.
        views: the names of the views; those of a montage from the left.
        own: name of the sample that the folder itself is, where files in it are called after their views alone.
        category: what kind of product the samples are.
        is_only: that an image which says no view is a montage if its width can be divided by the number of views.
    """
    grouped = group_by_view(readable_pictures(files), views)
    found = {
        name: {view: ViewFile(Path(files[file])) for view, file in held.items()}
        for name, held in grouped.complete.items()
    }
    incomplete, ambiguous = dict(grouped.incomplete), dict(grouped.ambiguous)
    known: tuple[dict[str, Any], ...] = (found, incomplete, ambiguous)
    for kind in known:
        if "" not in kind:
            continue
        if any(own in each for each in known):
            ambiguous[own] = f"the folder must hold a sample or be one, got both of the name {own}; rename one"
            del kind[""]
        else:
            kind[own] = kind.pop("")
    unknown = [Path(files[name]) for name in unread_pictures(files)]
    for name in grouped.unknown:
        path, sample_id = Path(files[name]), split_name(name)[0]
        if not is_montage(path, len(views)) and not (is_only and picture_size(path)[0] % len(views) == 0):
            unknown.append(path)
        elif any(sample_id in each for each in known):
            ambiguous[sample_id] = f"{path} must have a name of its own, got that of a sample; rename it"
        else:
            found[sample_id] = montage(path, views)
    for name in ambiguous:
        found.pop(name, None)
        incomplete.pop(name, None)
    complete = [Sample(category, name, NEW, None, found[name], {}) for name in sorted(found, key=natural_key)]
    return Found(complete, incomplete, unknown, ambiguous)


def why_unknown(path: Path, views: Sequence[str]) -> str:
    """Say in words why an image is of no sample that is known."""
    if not readable_pictures([path.name]):
        return f"pictures that end in {split_name(path.name)[1]} are not read; convert it"
    return f"its name says none of the views {', '.join(views)}, and it is no montage of them"


def _files(paths: Sequence[Path], base: Path) -> dict[str, str]:
    """The files in and of the paths, by their names relative to the base.

    A file that is named twice, as in a folder and alone, counts once.
    """
    files: dict[str, str] = {}
    for path in paths:
        name = os.path.relpath(path, base).replace(os.sep, "/")
        files |= walk(os.fspath(path), "" if name == "." else f"{name}/") if path.is_dir() else {name: os.fspath(path)}
    masked = next((name for name in files if "ground_truth/" in name and "ground_truth" in name.split("/")), None)
    if masked is not None:
        raise ValueError(
            f"new_samples: {base} must hold new samples, got a data set with masks in ground_truth, such as {masked}; "
            "name the folder of the samples, or open it as a data set"
        )
    return files


def _nothing_to_read(paths: Sequence[Path], names: Sequence[str]) -> FileNotFoundError:
    endings = sorted({split_name(name)[1] or "nothing" for name in names})
    return FileNotFoundError(
        f"new_samples: {', '.join(map(str, paths[:3]))} must hold images that end in "
        f"{' '.join(sorted(IMAGE_SUFFIXES))}, got "
        f"{'files ending in ' + ' '.join(endings) if endings else 'no files'}; convert them, or name another folder"
    )


def expand(path: str | Path) -> list[str]:
    """The path itself, or what a pattern matches, in natural order.

    Raises:
        FileNotFoundError: it is not there, or the pattern matches nothing.
        ValueError: it is no image.
    """
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


def _anchor(path: str | Path) -> Path:
    """The folder that ids are relative to where this is the one input."""
    path = Path(path)
    if os.path.lexists(path):
        return path if path.is_dir() else path.parent
    return Path(*itertools.takewhile(lambda step: not glob.has_magic(step), path.parts))
