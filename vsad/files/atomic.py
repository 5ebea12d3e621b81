"""Files and folders that appear whole or not at all: written beside their place, flushed, and then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from vsad.files.words import check_regular, in_words

_PARTIAL = ".partial"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a file that replaces ``path`` when the block ends without an error.

    Missing folders are made. The file has the mode that the umask gives, whatever a library makes of it, and its bytes
    are on the disk before it has its name. Whatever ends the block, nothing stays beside it; what a process leaves that
    is killed lies in a hidden folder ``.NAME.*.partial``, which ``sweep`` deletes. Where ``path`` is a link, the file
    that it leads to is replaced.

    Args:
        path: the file.

    Returns:
        As the block's value, the path to write; an empty file of the same name in a folder of its own.

    Raises:
        OSError: the file system refuses, the file may not be written, or a folder or device has its name.

    Example:
        >>> with atomic("scores.txt") as partial:
        ...     _ = partial.write_text("0.5")
        >>> Path("scores.txt").read_text()
        '0.5'
    """
    with in_words(path):
        target = _replaceable(Path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of a long name the beginning, so that the folder's is no longer than names may be.
        folder = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{_PARTIAL}")
        folder.mkdir()
        try:
            file = folder / target.name
            file.touch()
            mode = file.stat().st_mode
            yield file
            _settle(file, mode)
            os.replace(file, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file."""
    with atomic(path) as partial:
        partial.write_bytes(data)
    return Path(path)


@contextmanager
def atomic_folder(folder: str | Path, last: str | None = None, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Write the parts of a folder, which it gets when the block ends without an error.

    Args:
        folder: new or empty, or else with ``last`` and ``stale`` as ``publish`` takes them.
        last: the part without which the folder is not read.
        stale: parts that must not stay.

    Returns:
        As the block's value, the empty folder to write into.
    """
    inside = Path(folder).is_dir()  # a folder may be where another file system begins: its neighbors are elsewhere
    partial = partial_folder(Path(folder, "new") if inside else folder)
    try:
        with in_words(folder):
            yield partial
        publish(partial, folder, last, stale)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_folder(folder: str | Path) -> Path:
    """Make an empty folder ``.NAME.partial`` beside ``folder`` to write into, until ``publish`` gives it its name."""
    with in_words(folder):
        partial = Path(folder).with_name(f".{Path(folder).name}{_PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    return partial


def publish(partial: Path, folder: str | Path, last: str | None = None, stale: Iterable[str] = ()) -> None:
    """Give a complete folder its name, after its bytes are on the disk: whoever looks sees all of it or nothing.

    Args:
        partial: the complete folder.
        folder: new or empty. With ``last`` it may hold something: the parts of ``partial`` replace those of the same
            names, and others stay.
        last: the part without which the folder is not read. It is taken away first and comes last, so that nobody ever
            reads some of the old parts with some of the new ones.
        stale: further parts to be taken away.

    Raises:
        OSError: the file system refuses, or the folder holds something.
    """
    folder = Path(folder)
    with in_words(folder):
        probe = partial / _PARTIAL
        probe.touch()
        mode = probe.stat().st_mode
        probe.unlink()
        for path in partial.rglob("*"):
            if path.is_file():
                _settle(path, mode)
        if not folder.exists():
            os.replace(partial, folder)
            return
        if last is None and any(each != partial for each in folder.iterdir()):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        parts = sorted(partial.iterdir(), key=lambda part: part.name == last)
        for name in (*([] if last is None else [last]), *stale):
            _delete(folder / name)
        for part in parts:
            _delete(folder / part.name)
            os.replace(part, folder / part.name)
        partial.rmdir()


def sweep(folder: str | Path) -> None:
    """Delete what killed processes left of what they wrote into a folder, not into those in it; none may be writing."""
    with in_words(folder):
        for left in Path(folder).glob(f".?*{_PARTIAL}"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)


def check_writable(path: str | Path, kind: Literal["file", "folder"] = "folder") -> None:
    """Refuse, before any work, a path that could not be written after it; nothing is left behind.

    Args:
        path: a folder that files are to be written into, or a file; need not be there.
        kind: which.

    Raises:
        OSError: it may not be written, its disk is full or read-only, its name is too long, or it or one of its folders
            is a file.

    Example:
        >>> check_writable("new/folder")
        >>> _ = Path("taken").write_text("")
        >>> check_writable("taken")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        NotADirectoryError: taken: must be a place that can be written, got taken, which is a file and no folder; ...
    """
    with in_words(path):
        target = _replaceable(Path(path)) if kind == "file" else Path(path)
        folder = target.parent if kind == "file" else target
        while not _is_folder(folder):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:  # has no name where the file system can do without
            file.write(b"\0")


def _is_folder(path: Path) -> bool:
    """Whether it is one; False where nothing is."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise FileExistsError(f"{path}: must be a folder, got a link to nothing; mend or delete the link") from None
        return False
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
    return True


def _replaceable(path: Path) -> Path:
    """The file that a path leads to; refuses what is no file, and a file that may not be written."""
    target = Path(os.path.realpath(path))
    try:
        check_regular(target)
    except FileNotFoundError:
        return target
    os.close(os.open(target, os.O_WRONLY))  # what a rename replaces, the folder's permissions alone decide
    return target


def _settle(file: Path, mode: int) -> None:
    """Flush a file to the disk, and give it its mode."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.chmod(stat.S_IMODE(mode))


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
