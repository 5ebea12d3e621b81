"""The folder that a command writes: one process at a time, one run at a time, and a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import vsad
from vsad.files.atomic import check_writable, sweep
from vsad.files.lock import lock
from vsad.files.run_record import FORMAT, JOURNAL, MANIFEST, VERSION, RunRecord, inside, read_run
from vsad.files.text import write_json
from vsad.files.words import differences, first_of, in_words

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
            FileExistsError: a folder that ``fresh`` is to delete holds files of somebody else's.
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
            _check_command(folder, known, command)
            if known is not None and fresh:
                _sweep(folder, known)
                _check_alone(folder, known)
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

    def begin(self) -> None:
        """Note that the run is not complete, before anything of it is changed."""
        if self.finished:
            self._note({"begun": {}})

    def finish(self, **facts: Any) -> None:
        """Note that the whole run is complete, its folders too; a part that is marked later undoes that."""
        for name in self.record.folders:
            self.made(name)
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
        """The path of a folder of the run's own, which ``fresh`` deletes with all that is in it until it is ``made``.

        Args:
            name: in the folder, with slashes.

        Raises:
            FileExistsError: it holds something, and the run has not made it.
            ValueError: the name leads out of the folder.
        """
        path = self.folder / name
        if inside(name) and path.is_dir() and any(path.iterdir()):
            if name not in self.record.folders:
                raise FileExistsError(
                    f"{path}: must be new or empty, got a folder that holds something; delete or move it"
                )
            return path
        return self._own("folder", name, [each for each, is_written in self.record.folders.items() if is_written])

    def made(self, name: str) -> None:
        """Note that a folder of the run's own is written: what is in it now is the run's, and what comes later is not.

        Args:
            name: that was given to ``subfolder``.
        """
        if self.record.folders[name]:
            for file in _files(self.folder / name):
                self.file(file.relative_to(self.folder).as_posix())
            self._note({"made": name})

    def nested(self, name: str) -> Path:
        """The path of a folder of another run, of which ``fresh`` deletes what is that run's.

        Args:
            name: in the folder, with slashes.

        Raises:
            ValueError: the name leads out of the folder.
        """
        return self._own("made", name, self.record.folders)

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
        _sweep(self.folder, self.record)
        if new:
            os.ftruncate(self._journal, 0)
            made = {"command": self.record.command, "vsad": self.record.vsad, "options": self.record.options}
            write_json(self.folder / MANIFEST, {"format": FORMAT, "version": VERSION, **made})
        # The last line may be half written: what follows must not continue it.
        self._write(b"\n" if os.fstat(self._journal).st_size else b"")
        self._note({"process": {"pid": os.getpid(), "host": socket.gethostname()}})

    def _own(self, kind: str, name: str, known: Container[str]) -> Path:
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


def check_command(folder: Path, command: str) -> None:
    """Refuse another command's folder, before any work.

    Raises:
        OSError: a file of the run that is there cannot be read.
        ValueError: another command made it, or its files are broken.
    """
    _check_command(folder, read_run(folder), command)


def _check_command(folder: Path, known: RunRecord | None, command: str) -> None:
    """Refuse another command's folder, which ``fresh`` shall not delete either."""
    if known is not None and known.command != command:
        raise ValueError(
            f"{folder}: must be new or made by `vsad {command}`, got a folder that `vsad {known.command}` made; name "
            "another --out"
        )


def _check_same(folder: Path, known: RunRecord, asked: RunRecord) -> None:
    """Refuse a run that is not the one that is asked for."""
    before, now = ({"vsad": run.vsad, **run.options} for run in (known, asked))
    different = differences(before, now)
    if different:
        raise ValueError(
            f"{folder}: must be of the same run, got {first_of(different, separator='; ')}; name another --out, or add "
            "--fresh, which deletes what that run made"
        )


def _taken(folder: Path, known: RunRecord | None) -> str:
    by = "another process"
    if known is not None:
        by = f"`vsad {known.command}`"
        if known.process:
            by += f" in process {known.process.get('pid')} on {known.process.get('host')}"
    return f"{folder}: must be written by one process at a time, got {by}; wait for it, or name another --out"


def _sweep(folder: Path, record: RunRecord) -> None:
    """Delete what killed processes left half written beside what is a run's own, and that of runs inside it."""
    for place in {folder, *((folder / name).parent for name in (*record.files, *record.folders))}:
        sweep(place)
    for name in record.folders:
        inner = read_run(folder / name)
        if inner is not None:
            _sweep(folder / name, inner)


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, links as well."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _check_alone(folder: Path, known: RunRecord) -> None:
    """Refuse to delete folders that hold more than the run has made, or a run inside it."""
    for name, is_written in known.folders.items():
        if is_written:
            continue
        inner = read_run(folder / name)
        own = known.files if inner is None else {f"{name}/{each}" for each in (*inner.files, MANIFEST, JOURNAL)}
        for path in _files(folder / name):
            if path.relative_to(folder).as_posix() not in own:
                raise FileExistsError(
                    f"{path}: must be elsewhere, as --fresh deletes {folder / name}, got a file that the run has not "
                    "made; move it away"
                )


def _delete(folder: Path, record: RunRecord) -> None:
    """Delete what is a run's own: its files, its folders, then those that this leaves empty, and its manifest."""
    root = folder.resolve()
    with in_words(folder):
        for name in (*record.files, *record.folders):
            path = folder / name
            if not path.parent.resolve().is_relative_to(root):
                continue  # a link leads out of the folder
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            elif (inner := read_run(path)) is not None:  # another run's, which knows what is its own
                _delete(path, inner)
                (path / JOURNAL).unlink(missing_ok=True)
            elif record.folders.get(name):  # it was not written to its end
                shutil.rmtree(path)
            _remove_empty(path, folder)
        (folder / MANIFEST).unlink(missing_ok=True)


def _remove_empty(path: Path, top: Path) -> None:
    """Remove a folder and those that it lies in, below a top one, as far as they are empty."""
    for each in (path, *path.parents):
        if each == top or (each.exists() and (not each.is_dir() or any(each.iterdir()))):
            break
        if each.exists():
            each.rmdir()
