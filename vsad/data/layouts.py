"""Opening a data set without saying which layout it has."""

from __future__ import annotations

from pathlib import Path

from vsad.data.dataset import MultiViewDataset
from vsad.data.folder import folder_categories, read_folder
from vsad.data.real_iad import read_real_iad, real_iad_categories
from vsad.data.sample import SPLITS


def list_categories(root: Path | str) -> list[str]:
    """List the categories in ``root``, sorted; a root that is itself one category gives its own name.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` has none of the layouts.
    """
    return sorted(_detect(Path(root))[1])


def open_dataset(
    root: Path | str, split: str, *, category: str | None = None, size: int | tuple[int, int] | None = None
) -> MultiViewDataset:
    """Open one split of one category; the layout, vsad's folders or Real-IAD's, is detected.

    Args:
        root: the data set's folder.
        split: "train" or "test".
        category: may be left out where the root has only one.
        size: (height, width) or one int to resize to; None keeps the cameras' own size.

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
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f'open_dataset: split must be "train" or "test", got {split!r}; choose one of them')
    layout, categories = _detect(root)
    if category is None and len(categories) > 1:
        raise ValueError(
            f"open_dataset: category must be named where {root} has several, got None; "
            f"choose one of {', '.join(sorted(categories))}"
        )
    if category is None:
        category = next(iter(categories))
    if category not in categories:
        raise ValueError(
            f"open_dataset: category must be one of {', '.join(sorted(categories))}, got {category!r}; "
            f"choose one that {root} holds"
        )
    if layout == "folder":
        return MultiViewDataset(read_folder(categories[category], category, split), size)
    wanted = (size, size) if isinstance(size, int) else size
    return MultiViewDataset(read_real_iad(root, category, split, wanted), size)


def _detect(root: Path) -> tuple[str, dict[str, Path]]:
    if not root.is_dir():
        raise FileNotFoundError(f"open_dataset: root must be a folder, got {root}; check the path")
    real_iad = real_iad_categories(root)
    if real_iad:
        return "real-iad", real_iad
    folder = folder_categories(root)
    if folder:
        return "folder", folder
    raise ValueError(
        f"open_dataset: root must hold either vsad's folders (<root>/train/good/<sample>/<view>.png, or one such tree "
        f"per category) or Real-IAD (<root>/realiad_jsons/<category>.json beside <root>/realiad_<resolution>/), "
        f"got {root} with neither; arrange the files in one of them"
    )
