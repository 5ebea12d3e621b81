"""What the command shows on stderr: its console, and progress as bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from vsad.progress import Progress, Stage

console = Console(stderr=True)


class Bars(Progress):
    """Progress as bars on stderr, one for each stage; every bar ends finished, and an empty stage has none."""

    def __init__(self) -> None:
        # The text takes what is left of the line, so that it crowds out nothing else.
        rest_of_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self.display = rich.progress.Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", table_column=rest_of_line),
            console=console,
            expand=True,
        )

    def __enter__(self) -> Bars:
        self.display.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.display.stop()

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Stage]:
        if total == 0:
            yield Stage()
            return
        # A bar whose stage fails stays where it is: only work that was done looks done.
        task = self.display.add_task(label, total=total, text="")
        yield _Bar(self.display, task)
        # Fewer steps than expected were all there were; a stage that reports no steps was done in one go.
        done = self.display.tasks[task].completed or total
        self.display.update(task, total=done, completed=done)


class _Bar(Stage):
    """One bar while its stage runs."""

    def __init__(self, display: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self.display, self.task = display, task

    def advance(self, text: str = "") -> None:
        self.display.update(self.task, advance=1, text=text)
