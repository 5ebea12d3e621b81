"""Keeps a copy of what a run has found so far, for machines that keep nothing and may be taken away at any moment."""

from __future__ import annotations

import contextlib
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

EVERY_S = 15.0


def pack(folders: list[Path], to: Path) -> None:
    """Write all files of the folders to one archive, which is whole at every moment."""
    new = to.with_name(f".{to.name}.new")
    with tarfile.open(new, "w:gz", compresslevel=1) as archive:
        for folder in folders:
            if folder.exists():
                archive.add(folder, arcname=folder.name)
    new.replace(to)


@contextlib.contextmanager
def renewed(folders: list[Path], out: str | None, every_s: float = EVERY_S) -> Iterator[None]:
    """Renew ``<out>/gpu-check.tar.gz`` every few seconds and at the end; without ``out``, do nothing."""
    if out is None:
        yield
        return
    to, stop = Path(out) / "gpu-check.tar.gz", threading.Event()
    to.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        while not stop.wait(every_s):
            with contextlib.suppress(OSError):  # A file that changes while it is read is in the next archive.
                pack(folders, to)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        pack(folders, to)
