"""The quick suite on the user's own machine and shapes: who wins, and by how much."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from vsad.bench.cases import Case, align, coreset, nearest, warp
from vsad.bench.report import megabytes, name, ours, ratio, rival, seconds, times_text
from vsad.bench.results import Results, Row
from vsad.bench.run import Effort, Runner
from vsad.bench.shapes import Shapes
from vsad.progress import Progress

EFFORT = Effort(seconds=0.5, most_rounds=15, compiled=False)


def cases(shapes: Shapes) -> list[Case]:
    """Every operator on these shapes."""
    s = shapes
    at = s.device
    views = (s.batch, s.views, s.channels, s.size, s.size, s.heads, s.neighbors, s.window)
    points = min(s.rows, 5000)
    return [
        align(*views, dtype=s.dtype, device=at),
        align(*views, dtype=s.dtype, device=at, backward=True),
        warp(s.batch * s.views, s.channels, s.size, s.size, dtype=s.dtype, device=at),
        nearest(s.rows, s.prototypes, s.channels, s.k, dtype=s.dtype, device=at),
        coreset(points, s.channels, max(1, points // 10), device=at),
    ]


def measure(shapes: Shapes, limit_s: float, progress: Progress) -> tuple[list[Case], Results]:
    """Measure; what ``limit_s`` leaves no time for is skipped, and says so."""
    runner = Runner(EFFORT, deadline=time.monotonic() + limit_s, device=shapes.device)
    wanted = cases(shapes)
    rows: list[Row] = []
    for case in progress.track(wanted, "measure"):
        rows += runner.measure(case)
    return wanted, runner.results(rows)


def verdict(rows: Iterable[Row]) -> str:
    """Who wins, and by how much."""
    rows = list(rows)
    mine, other = ours(rows), rival(rows)
    times = ratio(mine, other)
    if mine is None:
        return f"{other.peer} alone ran" if other else "nobody ran"
    if other is None or times is None:
        return f"{mine.peer} alone ran"
    winner, loser, by = (mine, other, times) if times >= 1 else (other, mine, 1 / times)
    return f"{winner.peer} wins: {times_text(by)} times as fast as {loser.peer}"


def table(case: Case, rows: Iterable[Row]) -> Table:
    """The peers of a case, the fastest first.

    ``spread`` is from the 20th to the 80th percentile, ``ceiling`` the share of a measured one, ``times ours`` a
    peer's time over that of our fastest.
    """
    ordered = sorted(rows, key=lambda row: row.median_s or float("inf"))
    mine = ours(ordered)
    found = Table(box=box.SIMPLE, title=Text(f"{name(case)}\n{verdict(ordered)}"), title_justify="left")
    found.add_column("", no_wrap=True)
    for column in ("median", "spread", "memory", "ceiling", "times ours"):
        found.add_column(column, justify="right")
    for row in ordered:
        if row.state != "timed":
            continue
        times = ratio(mine, row)
        found.add_row(
            Text(row.peer),
            seconds(row.median_s),
            f"{100 * ((row.p80_s or 0) - (row.p20_s or 0)) / (row.median_s or 1):.0f} %",
            megabytes(row.peak_bytes),
            f"{100 * (row.share or 0):.2g} %",
            "" if times is None or row is mine else times_text(times),
        )
    found.caption, found.caption_justify = Text("\n".join(notes(ordered))), "left"
    return found


def notes(rows: Iterable[Row]) -> list[str]:
    """Why a peer has no time."""
    return [f"{row.peer}: {'wrong, ' if row.state == 'wrong' else ''}{row.reason}" for row in rows if row.reason]


def show(wanted: list[Case], results: Results, console: Any) -> None:
    """Print one table per case."""
    for case in wanted:
        rows = results.of_case(case.id).values()
        if any(row.state == "timed" for row in rows):
            console.print(table(case, rows))
        else:
            console.print("\n".join([name(case), verdict(rows), *notes(rows)]), markup=False)
