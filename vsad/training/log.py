"""The log of a training, ``log.csv``: a row for each step, and TensorBoard's files where they are asked for."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from vsad.files import in_words, read_text, write_text

NAME = "log.csv"
_REMEDY = "delete it to go on without the rows of earlier steps"
# Of the longest trainings: tens of millions of rows.
_MAX_BYTES = 4 << 30


class Log:
    """Writes ``log.csv``, whose rows are complete as soon as their step is done.

    Columns: step, every loss, total, lr, seconds since the training began, pauses left out, samples_per_second.

    Args:
        folder: of the training; None writes nothing.
        accelerator: whose main process writes, and whose trackers are told too.
        step: the step that the training goes on from; rows after it are cut off.
        batch: samples in a step.
    """

    def __init__(self, folder: Path | None, accelerator: Accelerator, step: int, batch: int) -> None:
        self.accelerator, self.batch = accelerator, batch
        self.path = folder / NAME if folder is not None and accelerator.is_main_process else None
        before = 0.0 if self.path is None else cut(self.path, step)
        self.last = time.perf_counter()
        self.began = self.last - before

    def write(self, step: int, losses: Mapping[str, float], lr: float) -> float:
        """Add the row of a step; returns the steps per second."""
        now = time.perf_counter()
        speed, self.last = 1 / (now - self.last), now
        row = {
            **losses,
            "total": sum(value for name, value in losses.items() if name != "discriminator"),
            "lr": lr,
            "seconds": round(now - self.began, 3),
            "samples_per_second": round(self.batch * speed, 2),
        }
        if self.path is not None:
            new = not self.path.exists()
            with in_words(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["step", *row])
                writer.writerow([step, *row.values()])
        self.accelerator.log(row, step=step)
        return speed


def cut(path: Path, step: int) -> float:
    """Cut a log back to the rows of steps up to ``step``; returns the seconds of the last.

    Raises:
        OSError: the log cannot be read or written.
        ValueError: it is broken; the message names it.
    """
    if not path.is_file():
        return 0.0
    text = read_text(path, _REMEDY, _MAX_BYTES)
    # A process that is killed may leave the last line unfinished.
    head, *rows = [line for line in text.splitlines(keepends=True) if line.endswith("\n")] or [""]
    read = [_read(path, head, number, row) for number, row in enumerate(rows, 2)]
    kept = [(row, seconds) for row, (at, seconds) in zip(rows, read) if at <= step]
    if not kept:
        path.unlink()
        return 0.0
    write_text(path, "".join([head, *(row for row, _ in kept)]))
    return kept[-1][1]


def _read(path: Path, head: str, number: int, row: str) -> tuple[int, float]:
    """Step and seconds of a row, which is line ``number``."""
    cells = dict(zip(head.strip().split(","), row.strip().split(",")))
    try:
        return int(cells["step"]), float(cells["seconds"])
    except (KeyError, ValueError):
        raise ValueError(
            f"{path}: line {number} must hold step and seconds of a training's log, got {row.strip()[:60]!r}; {_REMEDY}"
        ) from None
