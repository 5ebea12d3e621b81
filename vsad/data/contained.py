"""Paths that a downloaded file names: none of them leads out of the folder that they are relative to."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Absolute, with a drive or backslashes as Windows has them, up or on the spot, with an empty step, or with a NUL.
_LEADS_OUT = re.compile(r"\A/|\A[A-Za-z]:|\\|\0|(?:\A|/)\.{0,2}(?:/|\Z)")
_LONGEST = 1024


def refuse_path(path: object, where: str) -> str:
    """Give back a path that leads down, in words and characters that a file system can hold.

    Args:
        path: what was read as a path, with ``/`` between its steps.
        where: names the file and the field that hold it, for errors.

    Raises:
        ValueError: it is no such path.
    """
    if not isinstance(path, str):
        raise ValueError(f"{where} must be a path, got {path!r:.100}; correct the entry")
    if len(path) > _LONGEST:
        raise ValueError(f"{where} must be a path of at most {_LONGEST} characters, got {len(path)}; correct the entry")
    if _LEADS_OUT.search(path) or not _is_text(path):
        raise ValueError(
            f"{where} must be a path that leads down from the category's folder, as OK/S0001/name.jpg, got {path!r}; "
            "correct the entry"
        )
    return path


class Tree:
    """The files below a folder, each of whose folders is read once, when it is first asked for.

    The folder itself may be a link; a link below it must lead to somewhere inside.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._names: dict[str, frozenset[str]] = {}
        self._links_out: dict[str, str] = {}

    def why_not(self, path: str) -> str:
        """Say in words why a path that ``refuse_path`` has passed is not to be read; nothing where it is there."""
        folder, _, name = path.rpartition("/")
        if name in self._list(folder):
            return ""
        for link, target in self._links_out.items():
            if f"{path}/".startswith(f"{link}/"):
                return f"{self.root / link} is a link that leads out of {self.root} to {target}"
        return f"{self.root / path} is not on the disk"

    def _list(self, folder: str) -> frozenset[str]:
        found = self._names.get(folder)
        if found is not None:
            return found
        # From the top down, so that no folder is read whose own name was not found in the one above.
        steps = folder.split("/") if folder else []
        for depth in range(len(steps) + 1):
            above = "/".join(steps[:depth])
            if above not in self._names:
                is_there = depth == 0 or steps[depth - 1] in self._names["/".join(steps[: depth - 1])]
                self._names[above] = self._scan(above) if is_there else frozenset()
        return self._names[folder]

    def _scan(self, folder: str) -> frozenset[str]:
        names = set()
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    real = os.path.realpath(entry.path) if entry.is_symlink() else self._real
                    if real == self._real or real.startswith(self._real + os.sep):
                        names.add(entry.name)
                    else:
                        self._links_out[f"{folder}/{entry.name}".lstrip("/")] = real
        except NotADirectoryError:
            pass  # a file has nothing below it
        return frozenset(names)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # JSON can hold halves of surrogate pairs
        return False
    return True
