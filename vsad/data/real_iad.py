"""The layout of Real-IAD (Wang et al., CVPR 2024): an image tree and one JSON of splits per category.

realiad_{256,512,1024,raw}/<category>/{OK,NG/<CODE>}/S0001/<category>_0001_{OK,NG_<CODE>}_C1_<time>.jpg
realiad_jsons/<category>.json   or   realiad_jsons/realiad_jsons/<category>.json
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from vsad.data.sample import GOOD, Sample, ViewFile
from vsad.files import read_json

# The id keeps OK or NG_<CODE>, because the two are numbered independently; some categories double an underscore,
# so names are parsed and never rebuilt.
_NAME = re.compile(r"(?P<id>.+_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_(?P<view>C[0-9])_")
_FIELDS = ("anomaly_class", "image_path", "mask_path")


def real_iad_categories(root: Path) -> dict[str, Path]:
    """Find the categories of a Real-IAD root: name -> its JSON."""
    for folder in (root / "realiad_jsons", root / "realiad_jsons" / "realiad_jsons"):
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if files:
            return {path.stem: path for path in files}
    return {}


def read_real_iad(root: Path, category: str, split: str, size: tuple[int, int] | None = None) -> list[Sample]:
    """List the samples of one split.

    A view is normal when its mask_path is null or its anomaly_class is the normal class, whichever folder it lies
    in; a sample is normal when all of its views are. Of several resolutions the smallest that is no smaller
    than ``size`` is read.

    Raises:
        FileNotFoundError: there is no image folder for the category.
        ValueError: the JSON is malformed, or an image's name is not Real-IAD's.
    """
    path = real_iad_categories(root)[category]
    prefix, normal_class, entries = _load_json(path, split)
    folder = _image_folder(root, prefix, size)

    images: dict[str, dict[str, ViewFile]] = defaultdict(dict)
    masks: dict[str, dict[str, ViewFile | None]] = defaultdict(dict)
    defects: dict[str, str] = {}
    for entry in entries:
        name = Path(entry["image_path"]).name
        match = _NAME.match(name)
        if match is None:
            raise ValueError(
                f"open_dataset: {path} must name images <category>_<number>_<class>_C<digit>_<time>.jpg, "
                f"got {name!r}; correct the entry"
            )
        sample_id, view = match["id"], match["view"]
        if view in images[sample_id]:
            raise ValueError(
                f"open_dataset: {path} must list view {view} of {sample_id} once, got it twice; remove one entry"
            )
        is_normal = entry["mask_path"] is None or entry["anomaly_class"] == normal_class
        images[sample_id][view] = ViewFile(folder / entry["image_path"])
        masks[sample_id][view] = None if is_normal else ViewFile(folder / entry["mask_path"])
        if not is_normal:
            defects[sample_id] = entry["anomaly_class"]
    return [
        Sample(category, sample_id, split, defects.get(sample_id, GOOD), images[sample_id], masks[sample_id])
        for sample_id in sorted(images)
    ]


def _load_json(path: Path, split: str) -> tuple[str, str, list[dict[str, Any]]]:
    content = read_json(path, remedy="download the file again")
    try:
        prefix, normal_class = content["meta"]["prefix"], content["meta"]["normal_class"]
        entries = content[split]
        complete = all(field in entry for entry in entries for field in _FIELDS)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"open_dataset: {path} must be a Real-IAD JSON with meta.prefix, meta.normal_class, train and test, "
            f"got {type(error).__name__}: {error}; download the file again"
        ) from error
    if not complete:
        raise ValueError(
            f"open_dataset: {path} must give every entry of {split} the fields {', '.join(_FIELDS)}, "
            "got an entry without one; download the file again"
        )
    return prefix, normal_class, entries


def _image_folder(root: Path, prefix: str, size: tuple[int, int] | None) -> Path:
    def resolution(folder: Path) -> float:
        name = folder.name.removeprefix("realiad_")
        return float(name) if name.isdigit() else float("inf")

    found = sorted(
        (folder for folder in root.glob("realiad_*") if (folder / prefix).is_dir() and "json" not in folder.name),
        key=resolution,
    )
    if not found:
        raise FileNotFoundError(
            f"open_dataset: {root} must hold the images in realiad_<resolution>/{prefix}, got none; "
            "unpack realiad_256, realiad_512, realiad_1024 or realiad_raw there"
        )
    enough = [folder for folder in found if size is None or resolution(folder) >= max(size)]
    return (enough or found[-1:])[0] / prefix
