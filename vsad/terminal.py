"""What the command shows and takes: its console on stderr, progress as bars, tables, and options that take lists."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import rich.progress
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from typer.core import TyperCommand

from vsad.progress import Progress, Stage

if TYPE_CHECKING:
    from vsad.pipeline import Verdicts


class StderrConsole(Console):
    """The console on stderr, which may be asked to show nothing but warnings and errors."""

    is_quiet = False


console = StderrConsole(stderr=True)
# Warnings that are printed of one data set.
_WARNINGS = 5
# Verdicts that are printed of one data set.
_ROWS = 40
# Seconds without a line after which a stage that goes on prints one.
_PAUSE_S = 10.0


class Bars(Progress):
    """Progress on stderr: a bar for each stage, which ends finished, or lines where stderr is no terminal.

    An empty stage has neither.
    """

    def __init__(self) -> None:
        self.lines = not console.is_interactive or console.is_quiet
        self.spoke = time.monotonic()
        # The text takes what is left of the line, so that it crowds out nothing else.
        rest_of_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self.display = _Latest(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            # The time that is left, and at the end the time that it took.
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[text]}", table_column=rest_of_line),
            console=console,
            expand=True,
            disable=self.lines,
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
        yield _Bar(self, task)
        # Fewer steps than expected were all there were; a stage that reports no steps was done in one go.
        done = self.display.tasks[task].completed or total
        self.display.update(task, total=done, completed=done)
        self.speak(task)

    def speak(self, task: rich.progress.TaskID, pause_s: float = 0.0) -> None:
        """Print a line about a stage where there are no bars, if the last line is ``pause_s`` old."""
        if not self.lines or console.is_quiet or time.monotonic() - self.spoke < pause_s:
            return
        now = self.display.tasks[task]
        line = f"{now.description}: {now.completed:.0f} of {now.total:.0f}, {now.elapsed or 0:.0f} s"
        text = now.fields["text"]
        console.print(f"{line}, {text}" if text else line, highlight=False, markup=False, soft_wrap=True)
        self.spoke = time.monotonic()


class _Latest(rich.progress.Progress):
    """While bars move, as many of the latest as the terminal has rows: rich would cut off those at the bottom."""

    def get_renderables(self) -> Iterator[RenderableType]:
        moves = self.tasks and self.live.is_started
        yield self.make_tasks_table(self.tasks[1 - self.console.height :] if moves else self.tasks)


class _Bar(Stage):
    """One bar while its stage runs."""

    def __init__(self, bars: Bars, task: rich.progress.TaskID) -> None:
        self.bars, self.task = bars, task

    def advance(self, text: str = "") -> None:
        self.bars.display.update(self.task, advance=1, text=text)
        if not self.bars.display.tasks[self.task].finished:  # else its last line follows
            self.bars.speak(self.task, _PAUSE_S)


@contextmanager
def until_asked_to_end() -> Iterator[threading.Event]:
    """Do work that ends when it is asked to, by Ctrl-C or SIGTERM, and not before it has written what it has found.

    Returns:
        As the block's value, what is set then. Whoever asks twice interrupts the work.
    """
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def be_quiet(value: bool) -> bool:
    """Show no progress, remarks and tables from now on, where ``value`` says so; warnings and errors stay."""
    console.is_quiet = value
    return value


def say(text: str) -> None:
    """Print a line that is nice to know to stderr; what trust rests on is a warning, or was left out."""
    if not console.is_quiet:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def show_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of named cells to stdout; numbers with three decimals, None as a dash; words are never cut."""
    if console.is_quiet:
        return
    out = Console()
    table = Table(box=box.SIMPLE)
    columns = {
        name: [
            "-" if row[name] is None else row[name] if isinstance(row[name], str) else f"{row[name]:.3f}"
            for row in rows
        ]
        for name in rows[0]
    }
    widths = [max(len(word) for cell in (name, *cells) for word in cell.split()) for name, cells in columns.items()]
    for name, width in zip(columns, widths):
        table.add_column(name, min_width=width)
    # The names of the rows stay on one line where that leaves the longest words of the other columns their room.
    first = max(len(cell) for cell in next(iter(columns.values())))
    table.columns[0].no_wrap = first + sum(widths[1:]) + 2 * len(widths) + 2 <= out.width
    for cells in zip(*columns.values()):
        table.add_row(*cells)
    out.print(table)


def show_warnings(messages: Sequence[str]) -> None:
    """Print warnings, of many the first ones."""
    for warning in messages[:_WARNINGS]:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    more = len(messages) - _WARNINGS
    if more > 0:
        warnings = "warning" if more == 1 else "warnings"
        console.print(f"and {more} more {warnings}; detections.json tells of every sample", highlight=False)


def show_skipped(skipped: Mapping[str, str]) -> None:
    """Say which samples were left out because they could not be read, of many the first ones."""
    for name, reason in [*skipped.items()][:_WARNINGS]:
        console.print(f"left out {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if len(skipped) > _WARNINGS:
        console.print(f"and left out {len(skipped) - _WARNINGS} more", highlight=False)


def error(text: str) -> None:
    """Print an error to stderr."""
    console.print(f"error: {text}", style="red", highlight=False, markup=False, soft_wrap=True)


def print_line(text: object) -> None:
    """Print a line to stdout at once, whatever characters its names hold."""
    line = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def show_verdicts(verdicts: Verdicts) -> None:
    """Print the samples' scores and verdicts to stderr, of many the defective ones and the highest scores first."""
    if console.is_quiet:
        return
    shown = verdicts.found
    if len(shown) > _ROWS:
        shown = sorted(
            shown,
            key=lambda verdict: (not verdict.defect, -verdict.score if math.isfinite(verdict.score) else -math.inf),
        )[:_ROWS]
    rows = [(each.id, f"{each.score:.2f}", "DEFECT" if each.defect else "OK") for each in shown]
    table = Table("sample", "score", "verdict")
    for row in rows:
        table.add_row(*map(escape, row))
    if _fits(rows):
        console.print(table)
    else:  # a terminal that is too narrow for the table would cut its words
        for row in rows:
            say("  ".join(row))
    if len(verdicts.found) > _ROWS:
        say(f"and {len(verdicts.found) - _ROWS} more; detections.json has all of them")


def _fits(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table of these cells has a line for each row."""
    widest = sum(max(map(cell_len, column)) for column in zip(("verdict",) * 3, *rows))
    return widest + 10 <= console.width


def show_called(verdicts: Verdicts) -> None:
    """Say how many samples were called defective: of the good ones and the defective ones, where these are known."""
    from vsad.pipeline import count_verdicts  # torch takes a second to import

    counts = count_verdicts(verdicts)
    if counts["good"] or counts["defects"]:
        show_counts(counts)
    elif verdicts.found:
        called = sum(each.defect for each in verdicts.found)
        say(f"{called} of {len(verdicts.found)} samples were called DEFECT")


def show_counts(counts: Mapping[str, Any]) -> None:
    """Say what ``count_verdicts`` gives: how many of the good samples and of the defective ones were called so."""
    good, defects = counts["good"], counts["defects"]
    called = [f"{counts['false_alarms']} of {good} good samples were called DEFECT"] if good else []
    if defects:
        called.append(
            f"{counts['defects_found']} of {defects} defective {'ones were' if good else 'samples were called DEFECT'}"
        )
    if called:
        say("; ".join(called))


class ListCommand(TyperCommand):
    """A command whose options that may be repeated take several values at once: ``--seeds 1 2 3``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such an option before each of its values."""
        lists = {name for parameter in self.params if getattr(parameter, "multiple", False) for name in parameter.opts}
        repeated: list[str] = []
        option: str | None = None
        for index, arg in enumerate(args):
            if arg.startswith("-"):
                option = arg if arg in lists else None
            elif option is not None and args[index - 1] != option:
                repeated.append(option)
            repeated.append(arg)
        return super().parse_args(ctx, repeated)
