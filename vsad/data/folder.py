"""vsad's own layout: a folder per sample, a file per view.

    <root>/{train,test}/{good,<defect>}/<sample>/<view>.png
    <root>/ground_truth/<defect>/<sample>/<view>.png        white where the defect is; no file = clean view

The root holds one category, or one such tree per category.
"""

from __future__ import annotations

from pathlib import Path

from vsad.data.images import is_image
from vsad.data.sample import GOOD, SPLITS, Sample, ViewFile


def folder_categories(root: Path) -> dict[str, Path]:
    """Find the categories below ``root``: name -> the folder that holds its train and test."""
    if _is_category(root):
        return {root.resolve().name: root}
    return {folder.name: folder for folder in _folders(root) if _is_category(folder)}


def read_folder(root: Path, category: str, split: str) -> list[Sample]:
    """List the samples of one split of the category whose train and test lie in ``root``.

    Raises:
        FileNotFoundError: the split, or its normal images, are not there.
        ValueError: two files stand for one view, or a defective sample has no mask.
    """
    if split == "train" and not any(_folders(root / "train" / GOOD)):
        raise FileNotFoundError(
            f"open_dataset: {root / 'train' / GOOD} must hold normal samples, got a folder without normal images; "
            "put each normal object's views in train/good/<sample>/<view>.png"
        )
    if not (root / split).is_dir():
        raise FileNotFoundError(
            f"open_dataset: {root} must hold a folder {split}, got none; put samples in {split}/<kind>/<sample>/"
        )
    samples = [
        _read_sample(root, category, split, folder) for kind in _folders(root / split) for folder in _folders(kind)
    ]
    if not samples:
        raise FileNotFoundError(
            f"open_dataset: {root / split} must hold sample folders, got none; put each object's views in "
            f"{split}/<kind>/<sample>/<view>.png"
        )
    return samples


def _read_sample(root: Path, category: str, split: str, folder: Path) -> Sample:
    defect = folder.parent.name
    images = _files_by_view(folder)
    truth = root / "ground_truth" / defect / folder.name
    masks = _files_by_view(truth) if truth.is_dir() else {}
    if defect != GOOD and split == "test" and not masks:
        raise ValueError(
            f"open_dataset: {folder} must have a mask in {truth}, got none; add <view>.png, white on the defect, "
            "for each view that shows it (all white will do where only the view's label is known)"
        )
    unknown = sorted(set(masks) - set(images))
    if unknown:
        raise ValueError(
            f"open_dataset: {masks[unknown[0]].path} must be the mask of a view in {folder}, got no such image; "
            "rename the mask after its view"
        )
    sample_id = f"{defect}/{folder.name}"
    return Sample(category, sample_id, split, defect, images, {view: masks.get(view) for view in images})


def _files_by_view(folder: Path) -> dict[str, ViewFile]:
    files: dict[str, ViewFile] = {}
    for path in sorted(folder.iterdir()):
        if not is_image(path):
            continue
        if path.stem in files:
            raise ValueError(
                f"open_dataset: {folder} must hold one file per view, got {files[path.stem].path.name} and "
                f"{path.name}; remove one of them"
            )
        files[path.stem] = ViewFile(path)
    return files


def _is_category(folder: Path) -> bool:
    return any((folder / split).is_dir() for split in SPLITS)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
