"""The layout of Real-IAD (Wang et al., CVPR 2024): an image tree and one JSON of splits per category.

realiad_{256,512,1024,raw}/<category>/{OK,NG/<CODE>}/S0001/<category>_0001_{OK,NG_<CODE>}_C1_<time>.jpg
realiad_jsons/<category>.json   or   realiad_jsons/realiad_jsons/<category>.json

The splits of the unsupervised setting lie in realiad_jsons_fuiad_{0.0,0.1,0.2,0.4} instead.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from vsad.data.contained import Tree, leads_out
from vsad.data.listing import Listing, folders, is_junk, keeping_everything
from vsad.data.naming import natural_key
from vsad.data.sample import GOOD, Sample, ViewFile
from vsad.files import read_json

# The id keeps OK or NG_<CODE>, because the two are numbered independently; some categories double an underscore,
# so names are parsed and never rebuilt.
_NAME = re.compile(r"(?P<id>.+_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_(?P<view>C[0-9])_")
_PREFIX = re.compile(r'"prefix"\s*:\s*"([^"\\\0]+?)/?"')
_JSONS = "realiad_jsons"
_SINGLE_VIEW = "sv"
_DOWNLOAD = "download the file again"


def real_iad_splits(root: Path) -> dict[str, dict[str, Path]]:
    """Find the splits of a Real-IAD root: variant ("" for the standard one) -> category -> JSON."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders(root):
        if folder.name.startswith(_JSONS):
            for place in (folder, *folders(folder)):  # an archive unpacks to a folder of its own name
                files = [path for path in place.glob("*.json") if not is_junk(path.name)] if place.is_dir() else []
                if files and place.name.startswith(_JSONS):
                    found.setdefault(place.name.removeprefix(_JSONS).lstrip("_"), {path.stem: path for path in files})
    return found


def real_iad_categories(root: Path, variant: str = "") -> tuple[dict[str, Path], list[str]]:
    """Find the categories of a Real-IAD root.

    Returns:
        The JSON of each category whose images are there, and the other categories, in natural order.

    Raises:
        ValueError: there are no such splits, or they are those of single views.
    """
    splits = real_iad_splits(root)
    choices = sorted(set(splits) - {_SINGLE_VIEW})
    if variant == _SINGLE_VIEW or (not variant and not choices):
        raise ValueError(
            f"open_dataset: {root} must hold splits of samples of five views, got {_JSONS}_{_SINGLE_VIEW}, whose "
            f"samples are single views; download {_JSONS} and put it there"
        )
    if variant not in splits:
        named = " or ".join(f'format="real-iad{":" if name else ""}{name}"' for name in choices)
        raise ValueError(
            f"open_dataset: {root} must hold {_JSONS}{'_' if variant else ''}{variant} with a JSON per category, got "
            f"{', '.join(_folder_of(name) for name in choices)}; pass {named}"
        )
    files = splits[variant]
    present = {name: files[name] for name in sorted(files, key=natural_key) if _has_images(root, name, files[name])}
    return present, [name for name in sorted(files, key=natural_key) if name not in present]


@keeping_everything()
def read_real_iad(
    root: Path, category: str, split: str, size: tuple[int, int] | None = None, variant: str = ""
) -> Listing:
    """List the samples of one split.

    A view is normal when its mask_path is null or its anomaly_class is the normal class, whichever folder it lies
    in; a sample is normal when all of its views are. Of several resolutions the smallest that is no smaller
    than ``size`` is read. A sample is not whole where a file that the JSON lists is not on the disk.

    Raises:
        FileNotFoundError: there is no image folder for the category.
        ValueError: the JSON is malformed, names a path outside, or an image's name is not Real-IAD's.
    """
    path = real_iad_splits(root)[variant][category]
    prefix, normal_class, entries = _load_json(path, split)
    tree = Tree(_image_folder(root, prefix, size))

    images: dict[str, dict[str, ViewFile]] = defaultdict(dict)
    masks: dict[str, dict[str, ViewFile | None]] = defaultdict(dict)
    defects: dict[str, str] = {}
    bad: dict[str, str] = {}
    for entry in entries:
        image, mask, kind = _fields(entry, path, split)
        match = _NAME.match(image.rpartition("/")[2])
        if match is None:
            raise ValueError(
                f"open_dataset: {path} must name images <category>_<number>_<class>_C<digit>_<time>.jpg, "
                f"got {image!r:.200}; correct the entry"
            )
        sample_id, view = match.groups()
        if view in images[sample_id]:
            bad.setdefault(
                sample_id,
                f"open_dataset: {path} must list view {view} of {sample_id} once, got it twice; remove one entry",
            )
        if mask is None or kind == normal_class:
            masks[sample_id][view] = None
        else:
            masks[sample_id][view] = ViewFile(_file(tree, mask, path, sample_id, bad))
            defects[sample_id] = kind
        images[sample_id][view] = ViewFile(_file(tree, image, path, sample_id, bad))
    samples = [
        Sample(category, sample_id, split, defects.get(sample_id, GOOD), images[sample_id], masks[sample_id])
        for sample_id in sorted(images, key=natural_key)
        if sample_id not in bad
    ]
    return Listing(samples, bad)


def _load_json(path: Path, split: str) -> tuple[str, str, list[Any]]:
    content = read_json(path, remedy=_DOWNLOAD)
    meta, entries = content.get("meta"), content.get(split)
    if not isinstance(meta, dict) or not isinstance(meta.get("normal_class"), str) or "prefix" not in meta:
        raise ValueError(
            f"open_dataset: {path} must be a Real-IAD JSON with meta.prefix and meta.normal_class, "
            f"got {meta!r:.100}; {_DOWNLOAD}"
        )
    if not isinstance(entries, list):
        raise ValueError(
            f"open_dataset: {path} must be a Real-IAD JSON with a list {split}, got {type(entries).__name__}; "
            f"{_DOWNLOAD}"
        )
    return _prefix(meta, path), meta["normal_class"], entries


def _prefix(meta: dict[str, Any], path: Path) -> str:
    prefix = meta["prefix"]
    prefix = prefix.removesuffix("/") if isinstance(prefix, str) else ""
    if leads_out(prefix) or not prefix.isprintable():
        raise ValueError(
            f"open_dataset: {path}: meta.prefix must be the name of the category's folder, as bottle/, got "
            f"{meta['prefix']!r:.100}; correct it, or {_DOWNLOAD}"
        )
    return prefix


def _fields(entry: Any, path: Path, split: str) -> tuple[str, str | None, str]:
    """The image's path, the mask's, and the kind of defect, of an entry."""
    try:
        kind, image, mask = entry["anomaly_class"], entry["image_path"], entry["mask_path"]
        if isinstance(kind, str) and isinstance(image, str) and (mask is None or isinstance(mask, str)):
            return image, mask, kind
    except (KeyError, TypeError):
        pass
    raise ValueError(
        f"open_dataset: {path} must give every entry of {split} the fields anomaly_class, image_path and mask_path, "
        f"which are text, mask_path may be null, got {entry!r:.200}; {_DOWNLOAD}"
    )


def _file(tree: Tree, name: str, path: Path, sample_id: str, bad: dict[str, str]) -> Path:
    """The file of that name in the JSON at ``path``; the sample is bad where it is not there.

    Raises:
        ValueError: the name leads out of the tree.
    """
    file = tree.find(name)
    if file is not None:
        return file
    wrong = f"open_dataset: {path} must list files in {tree.root}, but {tree.why_not(name)}"
    if leads_out(name):
        raise ValueError(f"{wrong}; correct the entry, or {_DOWNLOAD}")
    bad.setdefault(sample_id, f"{wrong}; restore the file or remove the entries of {sample_id}")
    return tree.root


def _has_images(root: Path, category: str, path: Path) -> bool:
    """The folder is named like the JSON; where it is not, the prefix counts, which is among the JSON's first bytes."""
    if _resolutions(root, category):
        return True
    with path.open("rb") as file:
        prefix = _PREFIX.search(file.read(4096).decode(errors="replace"))
    return prefix is not None and not leads_out(prefix[1]) and bool(_resolutions(root, prefix[1]))


def _image_folder(root: Path, prefix: str, size: tuple[int, int] | None) -> Path:
    found = _resolutions(root, prefix)
    if not found:
        raise FileNotFoundError(
            f"open_dataset: {root} must hold the images in realiad_<resolution>/{prefix}/, got none; "
            "unpack realiad_256, realiad_512, realiad_1024 or realiad_raw there"
        )
    enough = [folder for folder in found if size is None or _resolution(folder) >= max(size)]
    return (enough or found[-1:])[0] / prefix


def _resolutions(root: Path, prefix: str) -> list[Path]:
    """The folders realiad_<resolution> that hold images of the category, from the smallest resolution on."""
    found = [folder for folder in root.glob("realiad_*") if not folder.name.startswith(_JSONS)]
    return sorted((folder for folder in found if (folder / prefix).is_dir()), key=_resolution)


def _resolution(folder: Path) -> float:
    name = folder.name.removeprefix("realiad_")
    return float(name) if name.isascii() and name.isdigit() else float("inf")


def _folder_of(variant: str) -> str:
    return f"{_JSONS}_{variant}" if variant else _JSONS
