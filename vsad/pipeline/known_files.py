"""The images that samples were inspected with, by which a sample is known again: another one may have its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vsad.data import Sample
from vsad.files import fingerprint_files
from vsad.pipeline.stages import stamp

# Of every image of a sample its path, size and time, and, once it was read, a hash of its name and contents.
_Files = list[list[Any]]
# Digits of such a hash, 4 bits each.
_HASH = 16


class KnownFiles:
    """The files of the samples that a folder holds results of.

    A file at its old place is known by size and time. One that lies elsewhere is known by name and contents, so that
    data may be moved; files of equal names, sizes and times that are others are told apart.

    Args:
        done: the facts of every sample that was inspected, as the journal of a run has them.
        mark: notes facts of a sample there.
    """

    def __init__(self, done: Mapping[str, Mapping[str, Any]], mark: Callable[..., None] | None = None) -> None:
        self._done, self._mark = done, mark
        self._looked: dict[str, _Files] = {}

    def are_of(self, sample: Sample) -> bool:
        """Whether a sample was inspected, and its files are those of then.

        They are remembered as they are before they are read: what replaces them meanwhile is another sample.

        Raises:
            OSError: a file cannot be read.
        """
        self._looked[sample.id] = now = _files_of(sample)
        before = self.before(sample.id)
        return bool(before) and len(before) == len(now) and all(_is_same(*pair) for pair in zip(before, now))

    def may_be_of(self, sample: Sample) -> bool:
        """Whether a sample's files hold what those held that were inspected by its name, as far as can be known."""
        before = self.before(sample.id)
        try:
            now = _files_of(sample)
            return not before or (len(before) == len(now) and all(_holds_same(*pair) for pair in zip(before, now)))
        except OSError:
            return True  # reading them says what is wrong

    def has_left(self, sample_id: str) -> bool:
        """Whether some of the files of a sample that was inspected are there, and all of these are as they were."""
        left = [each for each in self.before(sample_id) if Path(each[0]).exists()]
        return bool(left) and all([*stamp(Path(path))] == facts[:2] for path, *facts in left)

    def forget(self, sample_id: str) -> None:
        """Note that a sample is not inspected, where it was."""
        assert self._mark is not None
        if self.before(sample_id):
            self._mark(sample_id, files=[])

    def note(self, sample: Sample) -> None:
        """Note with which files a sample was inspected, after they were read."""
        assert self._mark is not None
        looked = self._looked.pop(sample.id, None)
        self._mark(sample.id, files=[_with_contents(*file) for file in looked or _files_of(sample)])

    def note_place(self, sample: Sample) -> None:
        """Note where the files of a sample that is known lie now."""
        assert self._mark is not None
        before = self.before(sample.id)
        known = [[*new, *old[3:]] for old, new in zip(before, _files_of(sample))]
        if known != before:
            self._mark(sample.id, files=known)

    def before(self, sample_id: str) -> _Files:
        """The files that a sample was inspected with; none where it was not."""
        found: _Files = self._done.get(sample_id, {}).get("files", [])
        return found


def _files_of(sample: Sample) -> _Files:
    return [
        [str(path.absolute()), *stamp(path)] for path in dict.fromkeys(file.path for file in sample.images.values())
    ]


def _with_contents(path: str, size: int, time_ns: int) -> list[Any]:
    """The facts of a file, with the hash of what it holds unless it has changed since: that was never read."""
    try:
        found = [fingerprint_files(path)[:_HASH]]
        return [path, size, time_ns, *(found if stamp(Path(path)) == (size, time_ns) else [])]
    except OSError:
        return [path, size, time_ns]


def _is_same(old: list[Any], new: list[Any]) -> bool:
    return old[:3] == new[:3] if old[0] == new[0] else len(old) > 3 and _holds_same(old, new)


def _holds_same(old: list[Any], new: list[Any]) -> bool:
    """Whether a file holds what it held; without a hash that is told by the size alone."""
    if old[:3] == new[:3] or old[1] != new[1] or len(old) < 4:
        return bool(old[1] == new[1])
    return bool(old[3] == fingerprint_files(new[0])[:_HASH])
