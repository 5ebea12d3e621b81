"""What is on disk of a run of a command: what made it, what of it is complete, and which files are its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from vsad.files.text import read_bytes, read_json
from vsad.files.words import in_words

MANIFEST, JOURNAL = "run.json", "run.jsonl"
FORMAT, VERSION = "vsad-run", 1
_MAX_JOURNAL = 4 << 30
_KEYS = {"command": str, "vsad": str, "options": dict}
REMEDY = "name another folder, or delete this file and what the run left there"


@dataclass
class RunRecord:
    """A run as its folder tells it.

    ``run.json`` says what made it and never changes; ``run.jsonl`` gets a line for whatever happens, so that a part
    that is done costs one short write however many there are.

    Args:
        command: the command of vsad that made it.
        vsad: its version.
        options: all that decides what comes out.
        done: the facts of every part that is complete, by its name.
        files: names in the folder of the files that are the run's own.
        folders: those of folders that are the run's own: with all that is in them where True, as the run still writes
            them, or else with the files that are noted alone.
        finished: whether all of it is complete.
        facts: that were given at the end.
        process: which opened it last: ``pid`` and ``host``.
    """

    command: str
    vsad: str
    options: dict[str, Any]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)  # as a set in the order of its making
    folders: dict[str, bool] = field(default_factory=dict)
    finished: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)

    def take(self, line: dict[str, Any]) -> None:
        """Note what a line of the journal tells."""
        if "done" in line:
            self.done[line["done"]], self.finished = line.get("facts", {}), False
        elif "file" in line:
            self.files[line["file"]] = None
        elif "folder" in line:
            self.folders[line["folder"]] = True
        elif "made" in line:
            self.folders[line["made"]] = False
        elif "begun" in line:
            self.finished = False
        elif "finished" in line:
            self.finished, self.facts = True, line["finished"]
        elif "fresh" in line:
            self.done, self.finished = {}, False
        elif "process" in line:
            self.process = line["process"]


def read_run(folder: str | Path) -> RunRecord | None:
    """Read what a folder tells of its run, which may be going on; None where there was none.

    Raises:
        OSError: a file cannot be read.
        ValueError: ``run.json`` is not a run's of this version.
    """
    path = Path(folder) / MANIFEST
    with in_words(path):
        if not path.exists():
            return None
    content = read_json(path, REMEDY)
    if content.get("format") != FORMAT or any(not isinstance(content.get(key), kind) for key, kind in _KEYS.items()):
        raise ValueError(f'{path}: must be an object with "format": "{FORMAT}", got another program\'s; {REMEDY}')
    if content.get("version") != VERSION:
        raise ValueError(f"{path}: must be of version {VERSION}, got {content.get('version')!r}; {REMEDY}")
    record = RunRecord(content["command"], content["vsad"], content["options"])
    if (Path(folder) / JOURNAL).exists():
        for line in read_bytes(Path(folder) / JOURNAL, REMEDY, _MAX_JOURNAL).split(b"\n"):
            known = _known(line)
            if known is not None:
                record.take(known)
    return record


def inside(name: str) -> bool:
    """Whether a name is of something in a folder, and leads nowhere else."""
    path = PurePath(name)
    return bool(path.parts) and not path.anchor and not path.drive and ".." not in path.parts and "\0" not in name


def fingerprint_files(*paths: str | Path) -> str:
    """A hash of the names and contents of files, and of all files in folders, by which a run knows its inputs again."""
    hashed = hashlib.sha256()
    for path in map(Path, paths):
        with in_words(path, "name a file or folder that is there"):
            for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
                _hash(hashed, file.relative_to(path.parent).as_posix(), file)
    return hashed.hexdigest()


def _hash(hashed: Any, name: str, file: Path) -> None:
    size = file.stat().st_size
    hashed.update(
        f"{len(name.encode(errors='surrogateescape'))} {size} ".encode() + name.encode(errors="surrogateescape")
    )
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            hashed.update(block)


def _known(line: bytes) -> dict[str, Any] | None:
    """A line of the journal; None for one that is no more than half written, which counts as never written."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    names: Iterable[str] = ("file", "folder", "made")
    if any(not (isinstance(content[key], str) and inside(content[key])) for key in names if key in content):
        return None
    right = isinstance(content.get("done", ""), str) and all(
        isinstance(content.get(key, {}), dict) for key in ("facts", "finished", "begun", "process")
    )
    return content if right else None
