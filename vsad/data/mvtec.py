"""The layout of MVTec AD and its relatives: an image per sample.

    <root>/{train,test}/{good,<defect>}/<sample>.png
    <root>/ground_truth/<defect>/<sample>_mask.png          or of the image's own name

The one view of a sample is called ``view``. MANTA has the same layout, and its images hold several views.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vsad.data.listing import Listing, folders, kinds, nothing_to_read, sorted_pictures, why_unread
from vsad.data.sample import GOOD, Sample, ViewFile

VIEW = "view"


def read_mvtec(root: Path, category: str, split: str) -> Listing:
    """List the samples of one split of the category in ``root``; raises what ``read_pictures`` raises."""
    return read_pictures(root, category, split, lambda path: {VIEW: ViewFile(path)})


def read_pictures(root: Path, category: str, split: str, views_of: Callable[[Path], dict[str, ViewFile]]) -> Listing:
    """List the samples of one split where each is one file.

    A sample is not whole where another file has its name, where it has two masks, or where its image or mask is none
    that is read. A folder among the images is listed as one that is not whole.

    Args:
        root: the category's folder.
        category: its name.
        split: "train" or "test".
        views_of: the views that a file holds; a ``ValueError`` says why it is not as it must be.

    Raises:
        FileNotFoundError: the split, or its images, are not there.
        ValueError: more folders than images lie there.
    """
    samples: list[Sample] = []
    bad: dict[str, str] = {}
    for kind in kinds(root, split, "<sample>.png"):
        read, unread = sorted_pictures(kind)
        shapes, unread_masks = _masks(root / "ground_truth" / kind.name)
        files, masks = _by_stem(read), _by_stem(shapes)
        bad |= {f"{kind.name}/{path.stem}": why_unread([path]) for path in unread}
        bad |= {f"{kind.name}/{path.stem.removesuffix('_mask')}": why_unread([path]) for path in unread_masks}
        inside = folders(kind)
        for folder in inside:
            reason = (
                f"open_dataset: {kind} must hold images alone, got the folder {folder.name}; "
                'move it away, or pass format="folder" where each sample has a folder of views'
            )
            if len(inside) > len(read):  # not a stray folder, but another layout
                raise ValueError(reason)
            bad[f"{kind.name}/{folder.name}/"] = reason
        if kind.name == GOOD and not files and not bad:
            raise FileNotFoundError(f"open_dataset: {kind} must hold images, got {nothing_to_read(kind)}")
        for stem, paths in files.items():
            sample_id = f"{kind.name}/{stem}"
            if sample_id in bad:
                continue
            try:
                samples.append(_read_sample(category, sample_id, split, paths, masks, views_of))
            except ValueError as error:
                bad[sample_id] = str(error)
    if not samples and not bad:
        raise FileNotFoundError(f"open_dataset: {root / split} must hold images in {split}/<kind>, got none; add some")
    return Listing(samples, bad)


def _read_sample(
    category: str,
    sample_id: str,
    split: str,
    paths: list[Path],
    masks: dict[str, list[Path]],
    views_of: Callable[[Path], dict[str, ViewFile]],
) -> Sample:
    path = paths[0]
    images = views_of(path)
    found = masks.get(path.stem, []) + masks.get(f"{path.stem}_mask", [])
    for kind, files in (("image", paths), ("mask", found)):
        if len(files) > 1:
            raise ValueError(
                f"open_dataset: sample {sample_id} must have one {kind}, got {files[0]} and {files[1].name}; "
                "remove one of them"
            )
    defect = path.parent.name
    # A view's mask is the part of the mask that lies where the view lies in the image.
    truth = {view: file._replace(path=found[0]) if found else None for view, file in images.items()}
    return Sample(category, sample_id, split, defect, images, truth)


def _masks(folder: Path) -> tuple[list[Path], list[Path]]:
    return sorted_pictures(folder) if folder.is_dir() else ([], [])


def _by_stem(paths: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stem, []).append(path)
    return found
