"""How long work says how far it has come: the one protocol, which knows no terminal.

Work that takes a while has an argument ``progress`` whose default, ``SILENT``, shows nothing. Whoever wants to show it
derives a class from ``Progress`` and overrides ``stage`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

Item = TypeVar("Item")


class Stage:
    """One stage of the work while it runs: a bar, for whoever shows bars."""

    def advance(self, text: str = "") -> None:
        """Report that one more step is done, with a text about it, such as losses."""


class Progress:
    """What work reports to, stage by stage; this one shows nothing.

    Example:
        >>> def add(numbers: list[int], progress: Progress = SILENT) -> int:
        ...     total = sum(progress.track(numbers, "add"))
        ...     with progress.stage("round", 1):
        ...         return round(total)
        >>> add([1, 2])
        3
    """

    def stage(self, label: str, total: int) -> AbstractContextManager[Stage]:
        """Begin a stage; it is finished when its context is left, however many of its steps were reported.

        Args:
            label: what is being done.
            total: number of steps that are expected; 0 where there turns out to be nothing to do.
        """
        return nullcontext(Stage())

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield the items as a stage of which every item is a step.

        Args:
            items: what to work on.
            label: what is being done.
            total: number of items that are expected, where ``items`` has no length.
        """
        if total is None:
            if not isinstance(items, Sized):
                raise TypeError(f"Progress.track: total must be given for items without a length, got {type(items)}")
            total = len(items)
        with self.stage(label, total) as stage:
            for item in items:
                yield item
                stage.advance()


class Prefixed(Progress):
    """Progress whose stages say what they belong to, before their labels: ``plain, train``."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self.progress, self.prefix = progress, prefix

    def stage(self, label: str, total: int) -> AbstractContextManager[Stage]:
        return self.progress.stage(f"{self.prefix}, {label}", total)


SILENT = Progress()
