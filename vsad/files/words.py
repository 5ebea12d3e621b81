"""Words of messages: what the file system refuses and the remedy, the first of many, and what differs."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SAID = {
    errno.EACCES: ("no permission", "change the permissions of it and of its folder"),
    errno.EPERM: ("no permission", "change the permissions of it and of its folder"),
    errno.EROFS: ("a file system that is read-only", "name a place on another one"),
    errno.ENOSPC: ("a full disk", "free some space, or name a place on another disk"),
    errno.EDQUOT: ("a full quota", "free some space, or name a place on another disk"),
    errno.EFBIG: ("more than a file may hold", "name a place on another disk"),
    errno.ENAMETOOLONG: ("a name that is too long", "name a shorter one"),
    errno.EISDIR: ("a folder", "name a file"),
    errno.EEXIST: ("something else of that name", "delete it, or name another"),
    errno.ENOTEMPTY: ("a folder that holds something", "delete it, or name another"),
    errno.ELOOP: ("links that lead in a circle", "mend the links"),
    errno.EMFILE: ("too many open files", "raise the limit with `ulimit -n`"),
    errno.ENFILE: ("too many open files", "end other programs"),
    errno.EIO: ("an error of the disk", "check the disk"),
}

# How libraries in Rust, such as safetensors, end what they say of an error of the file system, whatever they raise.
_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def in_words(path: str | Path, remedy: str | None = None) -> Iterator[None]:
    """Raise what the file system says of a path as an error of the same type, in one sentence.

    Errors that are in words already pass.

    Args:
        path: the file or folder.
        remedy: of a file that is read, how to get it; None for what is written.

    Raises:
        OSError: or one of its kinds.
        ValueError: no file system has such a name.
    """
    if "\0" in str(path) or not _encodes(path):
        raise ValueError(f"{str(path)!r}: must be a name of characters that files may have; name another")
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError):
            rust = _RUST.search(str(error))
            if rust is None:
                raise
            error = OSError(int(rust[1]), os.strerror(int(rust[1])))  # becomes PermissionError and so on
        if error.strerror is None:  # in words already
            raise
        kind = type(error) if type(error).__module__ == "builtins" else OSError
        said = kind(_sentence(path, error, remedy))
        said.errno = error.errno
        raise said from None


def check_regular(path: Path, remedy: str | None = None) -> None:
    """Refuse a folder, and a pipe or device, whose reading need not end and which replacing would destroy.

    Raises:
        OSError: there is no such file, or it is none.
    """
    with in_words(path, remedy):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if not stat.S_ISREG(mode):
            raise OSError(f"{path}: must be a file, got a pipe, socket or device; name a file")


def _encodes(path: str | Path) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _sentence(path: str | Path, error: OSError, remedy: str | None) -> str:
    if error.errno == errno.ENOENT and remedy is not None:
        return f"{path} is missing: {remedy}"
    rule = "must be a place that can be written" if remedy is None else "must be a file that can be read"
    got, mend = _SAID.get(error.errno or 0, ((error.strerror or str(error)).lower(), "name another"))
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        # The nearest of its folders that is none.
        parts = [each for each in (Path(path), *Path(path).parents) if os.path.lexists(each) and not each.is_dir()]
        if parts:
            got = f"{parts[0]}, which is a file and no folder"
            mend = "name another place" if remedy else "name another place, or delete that file"
    return f"{path}: {rule}, got {got}; {mend}" + (f", or {remedy}" if remedy else "")


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def first_of(words: Sequence[str], most: int = 3, *, separator: str = ", ") -> str:
    """The first of many, and how many more there are.

    Example:
        >>> first_of(["a", "b", "c", "d"], 2)
        'a, b and 2 more'
    """
    more = f"{separator.strip(', ')} and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + more


def first_samples(names: Sequence[str]) -> str:
    """How many samples, and the first of them."""
    return f"{len(names)} {'sample' if len(names) == 1 else 'samples'} ({first_of(names)})"


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Every field that differs, in words; both are nested mappings as JSON has them."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*now, *(key for key in before if key not in now)]
        return [
            text for key in names for text in differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        ]
    if before == now:
        return []
    short = max(len(str(before)), len(str(now))) <= 60
    return [f"{name} {before!r}, now {now!r}" if short else f"other {name}"]
