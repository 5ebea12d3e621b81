"""Opening a data set without saying which layout it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vsad.data.folder import read_folder
from vsad.data.listing import Listing, folders, pictures
from vsad.data.manta import is_montage, picture_size, read_manta
from vsad.data.mvtec import read_mvtec
from vsad.data.naming import natural_key
from vsad.data.real_iad import read_real_iad, real_iad_categories, real_iad_splits
from vsad.data.sample import SPLITS, Cameras, Sample

if TYPE_CHECKING:
    from vsad.data.dataset import MultiViewDataset

FORMATS = ("folder", "real-iad", "manta", "mvtec")
# Layouts that are a tree of train and test per category.
_TREES: dict[str, Callable[[Path, str, str], Listing]] = {
    "folder": read_folder,
    "manta": read_manta,
    "mvtec": read_mvtec,
}
# A folder with more folders than this holds samples, and is not looked through for categories.
_MOST_CATEGORIES = 1000


def list_categories(root: Path | str, *, format: str | None = None) -> list[str]:
    """List the categories in ``root`` in natural order; a root that is itself one category gives its own name.

    Of Real-IAD's, only those whose images are there; ``missing_categories`` lists the others.

    Raises:
        FileNotFoundError: ``root`` does not exist, or none of its categories has images.
        ValueError: ``root`` has none of the layouts.
    """
    root = Path(root)
    found = _find(root, format)
    if not found.categories:
        raise FileNotFoundError(
            f"open_dataset: {root} must hold the images of a category in realiad_<resolution>/<category>/, got only "
            f"splits, of {', '.join(found.missing)}; unpack a category's images there"
        )
    return list(found.categories)


def missing_categories(root: Path | str, *, format: str | None = None) -> list[str]:
    """List the categories that ``root`` has splits for but no images, as when a few of Real-IAD's are unpacked.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` has none of the layouts.
    """
    return _find(Path(root), format).missing


def choose_category(
    root: Path | str, category: str | None = None, *, format: str | None = None, split: str | None = None
) -> str:
    """Name the category that ``open_dataset`` opens, without reading any image.

    Of a format that is named, the samples of a ``split`` that is named are listed, to see that they lie like that.

    Raises:
        FileNotFoundError: ``root`` does not exist, or the category has no images.
        ValueError: ``root`` has none of the layouts or not that category, has several and none is named, or its files
            do not lie as the format has them.
    """
    root = Path(root)
    found = _find(root, format)
    name = _choose(root, category, found)
    if format is not None and split is not None:
        found.read(name, split, None)
    return name


def is_data_set(root: Path | str) -> bool:
    """Tell whether ``root`` has one of the layouts, rather than samples of which nothing is known."""
    root = Path(root)
    return root.is_dir() and bool(real_iad_splits(root) or _trees(root))


def open_dataset(
    root: Path | str,
    split: str,
    *,
    category: str | None = None,
    size: int | tuple[int, int] | None = None,
    format: str | None = None,
    cameras: Cameras | None = None,
    depth: int | None = None,
    pixel_limit: int | None = None,
    on_bad: Callable[[str, str], None] | None = None,
) -> MultiViewDataset:
    """Open one split of one category.

    Args:
        root: the data set's folder.
        split: "train" or "test".
        category: may be left out where the root has only one.
        size: (height, width) or one int to resize to; None keeps the cameras' own size.
        format: the layout, one of ``FORMATS``; None tells it from the files: Real-IAD has its JSONs, "folder" has
            folders of views, "manta" images five times as wide as high, "mvtec" any other images.
            "real-iad:fuiad_0.4" takes the splits in ``realiad_jsons_fuiad_0.4``.
        cameras: what a rig or a detector expects of the data; see ``MultiViewDataset``.
        depth: significant bits of the files; see ``MultiViewDataset``.
        pixel_limit: larger images are refused; see ``MultiViewDataset``.
        on_bad: is called with the id of each sample that is not whole and the reason in words, which is then left out;
            where None, the first one is an error.

    Returns:
        The split as a ``MultiViewDataset``.

    Raises:
        FileNotFoundError: a folder or file is not there.
        ValueError: anything else about the data is not as it must be; the message names the file and the remedy.

    Example:
        >>> train = open_dataset("station", "train", size=256)
        >>> train.views
        ['C1', 'C2', 'C3', 'C4', 'C5']
    """
    from vsad.data.dataset import MultiViewDataset  # torch takes a second to import

    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f'open_dataset: split must be "train" or "test", got {split!r}; choose one of them')
    found = _find(root, format)
    category = _choose(root, category, found)
    wanted = (size, size) if isinstance(size, int) else size
    listing = found.read(category, split, wanted or (cameras.size if cameras else None))
    listing = _only_whole(listing, cameras.views if cameras else ())
    for sample_id, reason in listing.bad.items():
        if on_bad is None:
            more = len(listing.bad) - 1
            raise ValueError(reason + (f" ({more} more samples are not whole)" if more else ""))
        on_bad(sample_id, reason)
    if not listing.samples:
        why = next(iter(listing.bad.values()), f"{split} lists none; choose another split")
        raise ValueError(f"open_dataset: {root} must hold a whole sample in {split}, got none, as {why}")
    return MultiViewDataset(listing.samples, size, cameras=cameras, depth=depth, pixel_limit=pixel_limit)


class _Found(NamedTuple):
    """A root whose layout is known.

    Args:
        categories: its categories whose images are there, and the folder or JSON of each.
        missing: its other categories.
        read: lists the samples of a category and a split, for a size that they will be resized to.
    """

    categories: dict[str, Path]
    missing: list[str]
    read: Callable[[str, str, tuple[int, int] | None], Listing]


def _find(root: Path, format: str | None) -> _Found:
    if not root.is_dir():
        raise FileNotFoundError(f"open_dataset: root must be a folder, got {root}; check the path")
    name, _, variant = (format or "").partition(":")
    if name not in ("", *FORMATS) or (variant and name != "real-iad"):
        raise ValueError(
            f"open_dataset: format must be one of {', '.join(FORMATS)}, or real-iad:<splits> such as "
            f"real-iad:fuiad_0.4, got {format!r}; choose one of them, or leave it out"
        )
    if name in ("", "real-iad") and real_iad_splits(root):
        present, missing = real_iad_categories(root, variant)
        return _Found(
            present, missing, lambda category, split, size: read_real_iad(root, category, split, size, variant)
        )
    trees = {} if name == "real-iad" else _trees(root)
    if trees:
        return _Found(
            trees,
            [],
            lambda category, split, _: _TREES[name or _tree_format(trees[category])](trees[category], category, split),
        )
    raise ValueError(
        f"open_dataset: root must hold vsad's folders (train/good/<sample>/<view>.png), single images or MANTA's "
        "montages (train/good/<sample>.png), each directly, per category or per <domain>/<category>, or Real-IAD "
        f"(realiad_jsons/<category>.json beside realiad_<resolution>/<category>/), got {root} with "
        f"{_names(root) or 'no folders'}; arrange the files in one of these ways"
    )


def _choose(root: Path, category: str | None, found: _Found) -> str:
    names = list(found.categories)
    if category in found.categories:
        return category
    if category in found.missing:
        raise FileNotFoundError(
            f"open_dataset: {root} must hold the images in realiad_<resolution>/{category}/, got none; "
            f"unpack them there, or choose one of those that are there: {', '.join(names) or 'none'}"
        )
    if category is not None:
        raise ValueError(
            f"open_dataset: category must be one of {', '.join(names)}, got {category!r}; choose one that {root} holds"
        )
    if len(names) != 1:
        raise ValueError(
            f"open_dataset: category must be named where {root} has {'several' if names else 'no images'}, got None; "
            f"choose one of {', '.join(names or found.missing)}{'' if names else ' and unpack its images'}"
        )
    return names[0]


def _trees(root: Path) -> dict[str, Path]:
    """Find the categories that have a tree of their own: name -> the folder that holds its train and test."""
    if _is_tree(root):
        return {root.resolve().name: root}
    children = folders(root)
    if len(children) > _MOST_CATEGORIES:
        return {}
    found = [child for child in children if _is_tree(child)]
    found += [
        grandchild for child in children if child not in found for grandchild in folders(child) if _is_tree(grandchild)
    ]
    count = Counter(folder.name for folder in found)
    names = {f.name if count[f.name] == 1 else f.relative_to(root).as_posix(): f for f in found}
    return {name: names[name] for name in sorted(names, key=natural_key)}


def _is_tree(folder: Path) -> bool:
    return any(folders(folder / split) for split in SPLITS)


def _tree_format(root: Path) -> str:
    """Tell the layout of a category's tree by the first thing that lies in its first kind of sample."""
    for split in SPLITS:
        for kind in folders(root / split):
            if folders(kind):
                return "folder"
            for path in pictures(kind):
                try:
                    picture_size(path)
                except ValueError:
                    continue  # one broken file does not decide for the others
                return "manta" if is_montage(path) else "mvtec"
    return "folder"


def _only_whole(listing: Listing, expected: Sequence[str]) -> Listing:
    """Set aside the samples that lack views or have others.

    The views are those that are expected, if any sample has them all, and else those that half of the samples have.
    """
    if expected and any(set(sample.images) == set(expected) for sample in listing.samples):
        views = list(expected)
    else:
        held = Counter(view for sample in listing.samples for view in sample.images)
        views = sorted((view for view, count in held.items() if 2 * count >= len(listing.samples)), key=natural_key)
    samples, bad = [], dict(listing.bad)
    for sample in listing.samples:
        reason = _wrong_views(sample, views)
        if reason:
            bad[sample.id] = reason
        else:
            samples.append(sample)
    return Listing(samples, bad)


def _wrong_views(sample: Sample, views: list[str]) -> str:
    missing = [view for view in views if view not in sample.images]
    extra = [view for view in sample.images if view not in views]
    if not missing and not extra:
        return ""
    got = [f"none for {', '.join(missing)}"] * bool(missing) + [f"also {', '.join(extra)}"] * bool(extra)
    remedy = ("rename the file" if extra else "add the image") if missing else "remove the file"
    return (
        f"open_dataset: sample {sample.id} ({sample.split}/{sample.defect}) must have every view of {views}, and no "
        f"other, got {' and '.join(got)}; {remedy} or remove the sample"
    )


def _names(root: Path) -> str:
    names = [folder.name for folder in folders(root)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more folders" if len(names) > 5 else "")
