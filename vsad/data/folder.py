"""vsad's own layout: a folder per sample, a file per view.

    <root>/{train,test}/{good,<defect>}/<sample>/<view>.png
    <root>/ground_truth/<defect>/<sample>/<view>.png        non-zero where the defect is; no file = clean view,
                                                            no file of any view = not known where

A mask may also be called ``<view>_mask.png``, and the letters of its name may be small or capital.
"""

from __future__ import annotations

from pathlib import Path

from vsad.data.listing import Listing, folders, kinds, nothing_to_read, pictures, sorted_pictures, why_unread
from vsad.data.sample import GOOD, Sample, ViewFile

_HOLDS = "<sample>/<view>.png"


def read_folder(root: Path, category: str, split: str) -> Listing:
    """List the samples of one split of the category whose train and test lie in ``root``.

    A sample is not whole where two files stand for one view, or a mask has no view. A stray image among the sample
    folders is listed as one that is not whole.

    Raises:
        FileNotFoundError: the split, or its normal images, are not there.
        ValueError: more images than sample folders lie there.
    """
    samples: list[Sample] = []
    bad: dict[str, str] = {}
    for kind in kinds(root, split, _HOLDS):
        loose, unread = sorted_pictures(kind)
        for path in loose:
            reason = (
                f"open_dataset: {kind} must hold sample folders alone, got the image {path.name}; put it in its "
                'sample\'s folder, or pass format="mvtec" or "manta" where each image is a sample'
            )
            if len(loose) > len(folders(kind)):  # not a stray file, but another layout
                raise ValueError(reason)
            bad[f"{kind.name}/{path.name}"] = reason
        bad |= {f"{kind.name}/{path.name}": why_unread([path]) for path in unread}
        for folder in folders(kind):
            try:
                samples.append(_read_sample(root, category, split, folder))
            except ValueError as error:
                bad[f"{kind.name}/{folder.name}"] = str(error)
    if split == "train" and not any(name.startswith(f"{GOOD}/") for name in [*bad, *(s.id for s in samples)]):
        raise FileNotFoundError(
            f"open_dataset: {root / split / GOOD} must hold normal samples, got a folder without normal images; "
            f"put each normal object's views in {split}/good/{_HOLDS}"
        )
    if not samples and not bad:
        raise FileNotFoundError(
            f"open_dataset: {root / split} must hold sample folders, got none; put each object's views in "
            f"{split}/<kind>/{_HOLDS}"
        )
    return Listing(samples, bad)


def _read_sample(root: Path, category: str, split: str, folder: Path) -> Sample:
    defect = folder.parent.name
    images = _images_by_view(folder)
    truth = root / "ground_truth" / defect / folder.name
    masks = _masks_by_view(truth, images) if truth.is_dir() else {}
    sample_id = f"{defect}/{folder.name}"
    return Sample(category, sample_id, split, defect, images, {view: masks.get(view) for view in images})


def _images_by_view(folder: Path) -> dict[str, ViewFile]:
    files: dict[str, ViewFile] = {}
    for path in pictures(folder):
        if path.stem in files:
            raise _two_for_one(folder, files[path.stem].path, path)
        files[path.stem] = ViewFile(path)
    if not files:
        raise ValueError(f"open_dataset: {folder} must hold an image of each view, got {nothing_to_read(folder)}")
    return files


def _masks_by_view(truth: Path, images: dict[str, ViewFile]) -> dict[str, ViewFile]:
    views = {view.casefold(): view for view in images}
    masks: dict[str, ViewFile] = {}
    for path in pictures(truth):
        stem = path.stem.casefold()
        view = path.stem if path.stem in images else views.get(stem) or views.get(stem.removesuffix("_mask"))
        if view is None:
            raise ValueError(
                f"open_dataset: {path} must be the mask of a view among {', '.join(images)}, got no such image; "
                "rename the mask after its view"
            )
        if view in masks:
            raise _two_for_one(truth, masks[view].path, path)
        masks[view] = ViewFile(path)
    return masks


def _two_for_one(folder: Path, first: Path, second: Path) -> ValueError:
    return ValueError(
        f"open_dataset: {folder} must hold one file per view, got {first.name} and {second.name}; remove one of them"
    )
