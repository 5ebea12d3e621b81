"""The page that ``check`` leaves behind: how every part ended, what failed, and how fast the kernels are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsad.bench import machine, report
from vsad.bench.gpu.outcome import STATES, Outcome
from vsad.bench.gpu.state import NOT_REACHED
from vsad.bench.results import load

MOST_LINES = 25  # failures, and reasons to skip, that are listed; the logs have the rest
TELLING = ("align/", "profile/", "model/", "speed/host")  # jobs whose last line is a finding


def write(outcomes: Mapping[str, Outcome], key: Mapping[str, Any], results: Path) -> Path:
    """Write the page, and every measured row in a table beside it; return the page's path."""
    name = machine.gpu_slug(key["gpu"]) if key["gpu"] else "no-gpu"
    path = results / f"{name}-gpu-check.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = results / f"{name}.json"
    path.write_text(page(outcomes, key, measured) + "\n")
    if measured.exists():
        measured.with_suffix(".md").write_text(report.full_table(load(measured)) + "\n")
    return path


def page(outcomes: Mapping[str, Outcome], key: Mapping[str, Any], measured: Path) -> str:
    versions = f"sources {key['sources']}; torch {key['torch']}, Python {key['python']}"
    lines = [
        f"# gpu-check on {key['gpu'] or 'a machine without a GPU'}", "",
        f"Commit {machine.commit() or 'unknown'}, {versions}.",
        f"**{verdict(outcomes)}**", "",
        "| part | passed | failed | cut | skipped | seconds | tests |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for part in dict.fromkeys(name.split("/")[0] for name in outcomes):
        ended = [outcome for name, outcome in outcomes.items() if name.split("/")[0] == part]
        counts = [sum(o.state == state for o in ended) for state in STATES]
        seconds = sum(o.seconds for o in ended)
        lines.append(f"| {part} | {' | '.join(str(n or '') for n in counts)} | {seconds:.0f} | {tests(ended)} |")
    lines += ["", "Seconds are those of the jobs together; jobs of one part ran beside each other."]
    for state, title in (("failed", "Failed"), ("cut", "Cut, the time was up"), ("skipped", "Skipped")):
        lines += _listed(title, {name: o for name, o in outcomes.items() if o.state == state})
    passed = {name: o for name, o in outcomes.items() if o.state == "passed"}
    lines += _listed("Found", {name: o for name, o in passed.items() if name.startswith(TELLING)})
    if measured.exists():
        found = load(measured)
        lines += ["", "## Speed", "", report.ceilings(found), "", report.target_table(found)]
    else:
        lines += ["", "## Speed", "", "Nothing was measured."]
    return "\n".join(lines)


def verdict(outcomes: Mapping[str, Outcome]) -> str:
    counts = {state: sum(o.state == state for o in outcomes.values()) for state in STATES}
    if counts["failed"]:
        return f"{counts['failed']} of {len(outcomes)} jobs failed, {counts['passed']} passed."
    if not counts["passed"]:
        return "Nothing was proved."
    unreached = sum(o.note == NOT_REACHED for o in outcomes.values())
    numbers = {"cut": counts["cut"] - unreached, "skipped": counts["skipped"], "not reached": unreached}
    rest = [f"{number} {what}" for what, number in numbers.items() if number]
    return f"{counts['passed']} of {len(outcomes)} jobs passed, none failed" + "".join(f", {r}" for r in rest) + "."


def tests(ended: list[Outcome]) -> str:
    """pytest's counts, added up."""
    total: dict[str, int] = {}
    for outcome in ended:
        for word in (outcome.note or "").split(", "):
            number, _, what = word.partition(" ")
            if number.isdigit() and what in ("passed", "failed", "skipped", "error", "errors"):
                total[what] = total.get(what, 0) + int(number)
    return ", ".join(f"{number} {what}" for what, number in total.items())


def _listed(title: str, outcomes: Mapping[str, Outcome]) -> list[str]:
    if not outcomes:
        return []
    unreached = Counter(name.split("/")[0] for name, o in outcomes.items() if o.note == NOT_REACHED)
    found = [f"- `{part}`: {count} jobs {NOT_REACHED}" for part, count in unreached.items()]
    for name, outcome in outcomes.items():
        if outcome.note == NOT_REACHED:
            continue
        found.append(f"- `{name}`: {outcome.note or ''}")
        found += [f"    - `{failure}`" for failure in outcome.failures]
    more = [f"- and {len(found) - MOST_LINES} lines more, in the logs"] if len(found) > MOST_LINES else []
    return ["", f"## {title}", "", *found[:MOST_LINES], *more]
