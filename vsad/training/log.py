"""The log of a training, ``log.csv``: a row for each step, and TensorBoard's files where they are asked for."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

NAME = "log.csv"


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
            with self.path.open("a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["step", *row])
                writer.writerow([step, *row.values()])
        self.accelerator.log(row, step=step)
        return speed


def cut(path: Path, step: int) -> float:
    """Cut a log back to the rows of steps up to ``step``; returns the seconds of the last."""
    if not path.is_file():
        return 0.0
    # A process that is killed may leave the last line unfinished.
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    rows = [line for line in lines[1:] if int(line.partition(",")[0]) <= step]
    if not rows:
        path.unlink()
        return 0.0
    partial = path.with_suffix(".partial")
    partial.write_text("".join([lines[0], *rows]), encoding="utf-8")
    os.replace(partial, path)
    (last,) = csv.DictReader([lines[0], rows[-1]])
    return float(last["seconds"])
