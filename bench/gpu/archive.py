"""Keeps a copy of what a run has found so far, for machines that keep nothing and may be taken away at any moment.

``tar xzf`` in a checkout puts everything back where it was, and the run goes on there.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vsad.bench.gpu.toolkit import ROOT

EVERY_S = 15.0
Archives = Mapping[str, Sequence[Path]]  # files and folders by the name of their archive


def pack(paths: Sequence[Path], to: Path) -> None:
    """Write the files, and those in the folders, to one archive, which is whole at every moment.

    Names are relative to the checkout, or to a folder's parent where it lies elsewhere. Nothing is written where
    nothing has changed since the archive.
    """
    began, new = time.time(), to.with_name(f".{to.name}.new")
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    if not files or (to.exists() and to.stat().st_mtime > max(file.stat().st_mtime for file in files)):
        return
    with tarfile.open(new, "w:gz", compresslevel=1) as archive:
        for path in paths:
            if path.exists():
                archive.add(path, path.relative_to(ROOT if path.is_relative_to(ROOT) else path.parent))
    os.utime(new, (began, began))  # what changes while it is read is newer
    new.replace(to)


@contextlib.contextmanager
def renewed(archives: Archives, out: str | None, every_s: float = EVERY_S) -> Iterator[None]:
    """Renew ``<out>/<name>.tar.gz`` every few seconds and at the end; without ``out``, do nothing."""
    if out is None:
        yield
        return
    folder, stop = Path(out), threading.Event()
    folder.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        for name, paths in archives.items():
            pack(paths, folder / f"{name}.tar.gz")

    def keep_on() -> None:
        while not stop.wait(every_s):
            with contextlib.suppress(OSError):  # A file that goes while it is read is missed by nobody.
                keep()

    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        keep()
