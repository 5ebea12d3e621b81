"""The parts of a run that are complete, each tied to the files that it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vsad.data import MultiViewDataset
from vsad.files import RunFolder, read_run


class Stages:
    """The stages of one category in a run's folder: a stage that is done is not done again.

    Args:
        run: the folder.
        category: whose stages they are.
        data: fingerprint of the files that the stages read.

    Raises:
        ValueError: a stage was done on files that have changed since.
    """

    def __init__(self, run: RunFolder, category: str, data: str) -> None:
        self._run, self._category, self._data = run, category, data
        for name, facts in run.done.items():
            if name.startswith(f"{category}/") and facts.get("data") != data:
                raise ValueError(
                    f"{run.folder}: must be of the data as they were, but files of {category} have changed since the "
                    "run began; name another --out, or add --fresh, which deletes what that run made"
                )

    def facts(self, stage: str) -> dict[str, Any] | None:
        """What was noted of a stage that is done; None where it is not."""
        return self._run.done.get(f"{self._category}/{stage}")

    def mark(self, stage: str, **facts: Any) -> None:
        """Note that a stage is done, and facts about it."""
        self._run.mark(f"{self._category}/{stage}", data=self._data, **facts)


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Refuse, before any work, a folder that holds what a run would write and has not made itself.

    Args:
        folder: of the run, which need not be there.
        names: of the files and folders that it will write.

    Raises:
        FileExistsError: one of them is somebody else's.
    """
    known = read_run(folder)
    own = {} if known is None else {**known.files, **known.folders}
    for name in names:
        path = folder / name
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
        if taken and name not in own:
            raise FileExistsError(
                f"{path}: must be new, got something that no run in {folder} has made; name another --out, or move it"
            )


def data_fingerprint(datasets: Iterable[MultiViewDataset]) -> str:
    """A hash of the names, sizes and times of all files of data sets, by which a run knows its data again."""
    hashed = hashlib.sha256()
    for dataset in datasets:
        for sample in dataset.samples:
            files = [*sample.images.values(), *(mask for mask in sample.masks.values() if mask is not None)]
            for path in dict.fromkeys(file.path for file in files):
                hashed.update(f"{dataset.category}\0{sample.split}\0{sample.id}\0{_told(path)}\n".encode())
    return hashed.hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, by which it is known again as it was."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _told(path: Path) -> str:
    try:
        size, time_ns = stamp(path)
    except OSError:
        return f"{path.name!r} missing"
    return f"{path.name!r} {size} {time_ns}"
