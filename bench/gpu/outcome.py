"""How a job of ``check`` ended, read from its exit status and what it printed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vsad.bench.measure import UNFINISHED

STATES = ("passed", "failed", "cut", "skipped")
NO_TESTS = 5  # pytest's exit status when no test was selected
SKIPPED = 77  # exit status of a script that cannot run on this machine; its last line says why
MOST_FAILURES = 5  # whose names are kept
COUNTS = re.compile(r"^=*\s*((?:\d+ (?:failed|passed|skipped|deselected|errors?|warnings?|xfailed|xpassed)(?:, )?)+)")
TOOL = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")


@dataclass(frozen=True)
class Outcome:
    """``state``: one of ``STATES``; ``note``: what was counted, or why it was skipped; ``failures``: the first few."""

    state: str
    seconds: float = 0.0
    note: str | None = None
    failures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "failures", tuple(self.failures))  # They come as a list from JSON.


def outcome(code: int, log: str, seconds: float, cut: bool) -> Outcome:
    """Judge a process that ended with ``code`` and printed ``log``; ``cut``: it was stopped because its time was up."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    # compute-sanitizer and pytest start their own lines with "=====".
    spoken = [line for line in lines if not line.startswith("=====")]
    last = spoken[-1][:400] if spoken else "printed nothing"
    counts = next((m[1].strip() for line in reversed(lines) if (m := COUNTS.match(line))), None)
    tool = next((m[1].strip() for line in reversed(lines) if (m := TOOL.search(line))), None)
    failures = tuple(line[:300] for line in lines if line.startswith(("FAILED ", "ERROR ")))[:MOST_FAILURES]
    note = counts or tool or last
    if counts and re.search(r"\d+ (failed|error)", counts):
        return Outcome("failed", seconds, note, failures)  # A failure stays one, even if the process was stopped later.
    if cut:
        return Outcome("cut", seconds, f"the time was up: {note}")
    if code == NO_TESTS and (counts or "no tests ran" in log):
        return Outcome("skipped", seconds, "there is no such test")
    if code == UNFINISHED:
        return Outcome("cut", seconds, f"the time was up: {last}")
    if code == SKIPPED:
        return Outcome("skipped", seconds, last)
    if code != 0:
        died = f"ended by signal {-code}" if code < 0 else f"exit status {code}"
        return Outcome("failed", seconds, f"{died}: {note}", failures)
    if counts and "passed" not in counts:
        reason = next((line for line in lines if line.startswith("SKIPPED ")), note)
        return Outcome("skipped", seconds, re.sub(r"^SKIPPED \[\d+\] \S+ ", "", reason)[:200])
    return Outcome("passed", seconds, note)
