"""How a job of gpu_check ended, read from its exit status and what it printed."""

from __future__ import annotations

import re
from dataclasses import dataclass

STATES = ("passed", "failed", "cut", "skipped")
NO_TESTS = 5  # pytest's exit status when it found nothing to run
SKIPPED = 77  # of scripts that cannot run here; their last line says why
UNFINISHED = 75  # of scripts that can go on where they stopped
MOST_FAILURES = 5  # whose names are kept
COUNTS = re.compile(r"^=*\s*((?:\d+ (?:failed|passed|skipped|deselected|errors?|warnings?|xfailed|xpassed)(?:, )?)+)")
TOOL = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")


@dataclass(frozen=True)
class Outcome:
    """``note``: what was counted, or why it was skipped; ``failures``: the first few, by name."""

    state: str
    seconds: float = 0.0
    note: str | None = None
    failures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "failures", tuple(self.failures))  # JSON has lists


def outcome(code: int, log: str, seconds: float, cut: bool) -> Outcome:
    """What a process that ended with ``code`` and printed ``log`` has shown; ``cut``: its time was up."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    spoken = [line for line in lines if not line.startswith("=====")]  # and not the sanitizer or pytest
    last = spoken[-1][:200] if spoken else "printed nothing"
    counts = next((m[1].strip() for line in reversed(lines) if (m := COUNTS.match(line))), None)
    tool = next((m[1].strip() for line in reversed(lines) if (m := TOOL.search(line))), None)
    failures = tuple(line[:300] for line in lines if line.startswith(("FAILED ", "ERROR ")))[:MOST_FAILURES]
    note = counts or tool or last
    if counts and re.search(r"\d+ (failed|error)", counts):
        return Outcome("failed", seconds, note, failures)  # whatever happened afterwards
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
