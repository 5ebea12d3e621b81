"""Paths that a downloaded file names: none of them leads out of the folder that they are relative to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

# Absolute, with a drive or backslashes as Windows has them, up or on the spot, with an empty step, or with a NUL.
_LEADS_OUT = re.compile(r"\A/|\A[A-Za-z]:|\\|\0|(?:\A|/)\.{0,2}(?:/|\Z)")


def leads_out(path: str) -> bool:
    """Tell whether a path with ``/`` between its steps may lead elsewhere than down from where it begins."""
    return _LEADS_OUT.search(path) is not None


class _Folder(NamedTuple):
    path: Path
    names: frozenset[str]


class Tree:
    """The files below a folder, by the paths that another file has for them.

    A path is found step by step among the names that its folders list, so it leads nowhere else. Each folder is
    listed once, when it is first asked for. The topmost folder may be a link of the user's own; a link below it, which
    an archive may have brought, must lead to somewhere inside.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top, self._real = os.fspath(root), os.path.realpath(root)
        self._folders: dict[str, _Folder] = {}
        self._links_out: dict[str, str] = {}

    def find(self, path: str) -> Path | None:
        """Give the file that a path with ``/`` between its steps names, if it is there."""
        steps, _, name = path.rpartition("/")
        folder = self._folders.get(steps) or self._list(steps)
        return folder.path / name if name in folder.names else None

    def why_not(self, path: str) -> str:
        """Say in words why ``find`` finds no file."""
        if leads_out(path):
            return f"{path!r} does not lead down from {self.root}"
        for link, target in self._links_out.items():
            if f"{path}/".startswith(f"{link}/"):
                return f"{self.root / link} is a link that leads out of {self.root}, to {target}"
        return f"{self.root / path} is not on the disk"

    def _list(self, steps: str) -> _Folder:
        folder = self._folders[""] = self._folders.get("") or self._scan(self.root, "")
        known = ""
        for step in steps.split("/") if steps else ():
            known = f"{known}/{step}" if known else step
            if step not in folder.names:
                return _Folder(folder.path, frozenset())
            if known not in self._folders:
                self._folders[known] = self._scan(folder.path / step, known)
            folder = self._folders[known]
        return folder

    def _scan(self, path: Path, steps: str) -> _Folder:
        names = set()
        try:
            with os.scandir(os.path.join(self._top, steps)) as entries:
                for entry in entries:
                    real = os.path.realpath(entry.path) if entry.is_symlink() else self._real
                    if real == self._real or real.startswith(self._real + os.sep):
                        names.add(entry.name)
                    else:
                        self._links_out[f"{steps}/{entry.name}" if steps else entry.name] = real
        except NotADirectoryError:
            pass  # a file has nothing below it
        return _Folder(path, frozenset(names))
