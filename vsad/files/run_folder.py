"""The folder that a command writes: one process at a time, one run at a time, and a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vsad
from vsad.files.atomic import check_writable, sweep
from vsad.files.lock import lock
from vsad.files.run_record import FORMAT, JOURNAL, MANIFEST, VERSION, RunRecord, inside, read_run
from vsad.files.text import write_json
from vsad.files.words import in_words

# Windows otherwise writes two bytes where a line ends.
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


class RunFolder:
    """The folder of a command's run, open for writing; made by ``open``.

    It holds ``run.json`` and ``run.jsonl``, see ``RunRecord``, beside what the command writes. While it is open, no
    other process opens it; the lock ends with the process, however that ends.

    Example:
        >>> for _ in range(2):  # the second time nothing is left to do
        ...     with RunFolder.open("inspected", command="detect", options={"size": 448}) as run:
        ...         for name in ("S1", "S2"):
        ...             if not run.is_done(name):
        ...                 _ = run.file(f"{name}.txt").write_text("ok")
        ...                 run.mark(name, verdict="ok")
        ...         run.finish()
        >>> run.done
        {'S1': {'verdict': 'ok'}, 'S2': {'verdict': 'ok'}}
    """

    def __init__(self, folder: Path, record: RunRecord, journal: int) -> None:
        self.folder, self.record, self._journal = folder, record, journal

    @classmethod
    def open(
        cls, folder: str | Path, *, command: str, options: Mapping[str, Any] | None = None, fresh: bool = False
    ) -> RunFolder:
        """Begin a run, or go on with one of the same command, options and version.

        Args:
            folder: made where it is missing; other files in it stay as they are.
            command: of vsad, such as ``detect``.
            options: all that decides what comes out, as JSON can hold it; of inputs a fingerprint.
            fresh: first delete the run that is there, whatever it is: the files that are its own and no others.

        Raises:
            OSError: the folder cannot be written, or another process writes it.
            ValueError: it holds another run, and not ``fresh``.
        """
        folder = Path(folder)
        try:
            asked = json.loads(json.dumps(options or {}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"run: options must be what JSON can hold, got others ({error}); give them as text"
            ) from None
        check_writable(folder)
        known = read_run(folder)
        record = RunRecord(command, vsad.__version__, asked)
        with in_words(folder):
            folder.mkdir(parents=True, exist_ok=True)
            journal = os.open(folder / JOURNAL, _APPEND, 0o666)
        try:
            if not lock(journal, folder):
                raise BlockingIOError(_taken(folder, known))
            known = read_run(folder)  # now that nobody else writes it
            if known is not None and fresh:
                os.write(journal, b"\n" + _line({"fresh": {}}))  # nothing counts as done while its files are deleted
                _delete(folder, known)
                known = None
            if known is not None:
                _check_same(folder, known, record)
            run = cls(folder, known or record, journal)
            run._begin(new=known is None)
        except BaseException:
            os.close(journal)
            raise
        return run

    @property
    def done(self) -> Mapping[str, dict[str, Any]]:
        """The facts of every part that is complete, by its name."""
        return self.record.done

    @property
    def finished(self) -> bool:
        """Whether the whole run is complete."""
        return self.record.finished

    def is_done(self, name: str) -> bool:
        """Whether a part is complete."""
        return name in self.record.done

    def mark(self, name: str, **facts: Any) -> None:
        """Note that a part is complete, and facts about it; it is a short line, however many there are."""
        self._note({"done": name, "facts": facts})

    def finish(self, **facts: Any) -> None:
        """Note that the whole run is complete; a part that is marked later undoes that."""
        self._note({"finished": facts})

    def file(self, name: str) -> Path:
        """The path of a file of the run's own, which ``fresh`` deletes.

        Args:
            name: in the folder, with slashes.

        Raises:
            ValueError: the name leads out of the folder.
        """
        return self._own("file", name, self.record.files)

    def subfolder(self, name: str) -> Path:
        """The path of a folder of the run's own, which ``fresh`` deletes with all that is in it.

        Args:
            name: in the folder, with slashes.

        Raises:
            FileExistsError: it holds something, and the run has not made it.
            ValueError: the name leads out of the folder.
        """
        path = self.folder / name
        known = name in self.record.folders or not inside(name)
        if not known and path.is_dir() and any(path.iterdir()):
            raise FileExistsError(f"{path}: must be new or empty, got a folder that holds something; delete or move it")
        return self._own("folder", name, self.record.folders)

    def close(self) -> None:
        """Let others write the folder; the run goes on when it is opened again."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, new: bool) -> None:
        own = (*self.record.files, *self.record.folders)
        for place in {self.folder, *((self.folder / name).parent for name in own)}:
            sweep(place)
        if new:
            os.ftruncate(self._journal, 0)
            made = {"command": self.record.command, "vsad": self.record.vsad, "options": self.record.options}
            write_json(self.folder / MANIFEST, {"format": FORMAT, "version": VERSION, **made})
        # The last line may be half written: what follows must not continue it.
        self._write(b"\n" if os.fstat(self._journal).st_size else b"")
        self._note({"process": {"pid": os.getpid(), "host": socket.gethostname()}})

    def _own(self, kind: str, name: str, known: Mapping[str, None]) -> Path:
        if not inside(name):
            raise ValueError(f"{self.folder}: a {kind} of the run must have a name in it, got {name!r}; name another")
        if name not in known:
            self._note({kind: name})
        return self.folder / name

    def _note(self, line: dict[str, Any]) -> None:
        if self._journal < 0:
            raise ValueError(
                f"{self.folder}: the run must be open to be written, got one that is closed; open it again"
            )
        self._write(_line(line))
        self.record.take(line)

    def _write(self, data: bytes) -> None:
        with in_words(self.folder / JOURNAL):
            while data:
                data = data[os.write(self._journal, data) :]


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()


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
    return [f"{name} {before!r}, now {now!r}" if short else f"another {name}"]


def _check_same(folder: Path, known: RunRecord, asked: RunRecord) -> None:
    """Refuse a run that is not the one that is asked for."""
    before, now = ({"command": run.command, "vsad": run.vsad, **run.options} for run in (known, asked))
    different = differences(before, now)
    if different:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        raise ValueError(
            f"{folder}: must be of the same run, got {'; '.join(different[:3])}{more}; name another --out, or add "
            "--fresh, which deletes what that run made"
        )


def _taken(folder: Path, known: RunRecord | None) -> str:
    by = "another process"
    if known is not None:
        by = f"`vsad {known.command}`"
        if known.process:
            by += f" in process {known.process.get('pid')} on {known.process.get('host')}"
    return f"{folder}: must be written by one process at a time, got {by}; wait for it, or name another --out"


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _delete(folder: Path, record: RunRecord) -> None:
    """Delete what is a run's own: its files, its folders, then those that this leaves empty, and its manifest."""
    root = folder.resolve()
    with in_words(folder):
        for name in (*record.files, *record.folders):
            path = folder / name
            if not path.parent.resolve().is_relative_to(root):
                continue  # a link leads out of the folder
            if path.is_dir() and not path.is_symlink():
                inner = read_run(path)
                if inner is not None:  # another run's, which knows what is its own
                    _delete(path, inner)
                    (path / JOURNAL).unlink(missing_ok=True)
                    _remove_empty(path)
                elif name in record.folders:
                    shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            for parent in (folder / name).parents:
                if parent == folder or not parent.is_dir() or any(parent.iterdir()):
                    break
                parent.rmdir()
        (folder / MANIFEST).unlink(missing_ok=True)
