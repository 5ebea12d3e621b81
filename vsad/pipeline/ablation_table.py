"""The tables of an ablation, made of what ``ablation.json`` holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsad.metrics import paired_interval
from vsad.pipeline.names import MAIN

LEVELS = ("sample", "view", "pixel")
CONFIDENCE = 0.9
# What a table says of a machine, and the unit.
_MACHINE = {"cpu": "", "architecture": "", "threads": "threads"}


def ablation_tables(content: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield every station's title, which says how many seeds were measured, and its rows, each of named cells."""
    stations: dict[str, list[Mapping[str, Any]]] = {}
    for result in content["results"]:
        stations.setdefault(result["station"], []).append(result)
    for station, results in stations.items():
        seeds = ", ".join(f"{result['seed']} {result['photograph']}" for result in results)
        yield f"{station} (n = {len(results)}: {seeds})", _rows([result["rows"] for result in results])


def markdown(content: Mapping[str, Any]) -> str:
    """The tables of all stations as Markdown, with what they mean and where they were measured."""
    options, results = content["options"], content["results"]
    commits = ", ".join(dict.fromkeys(f"{result['commit'] or 'unknown'} ({result['date']})" for result in results))
    machines = dict.fromkeys(_machine(result["machine"]) for result in results)
    versions = dict.fromkeys(result["vsad"] for result in results)
    parts = [
        "# What each part is worth",
        f"AUROC, mean over n seeds; in parentheses the {CONFIDENCE:.0%} t interval of the mean paired difference to "
        f"{MAIN}, which needs two seeds. Samples of all seeds are counted together. Times are the mean of training, "
        "fitting and detection of encoded samples.",
        f"Purpose {options['purpose']}, preset {options['preset']}, {options['train']['steps']} steps; vsad "
        f"{', '.join(versions)}, commit {commits}; {'; '.join(machines)}.",
    ]
    for title, rows in ablation_tables(content):
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _rows(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows of one station, ``seeds`` being the measured rows of every seed."""
    table = []
    for name in dict.fromkeys(name for rows in seeds for name in rows):
        measured = [
            rows for rows in seeds if name in rows
        ]  # an ablation that was stopped has some rows of its last seed
        mine = [rows[name] for rows in measured]
        full = [rows[MAIN] for rows in measured]
        table.append(
            {
                "row": name,
                **{level: _cell([m[level] for m in mine], [f[level] for f in full], name != MAIN) for level in LEVELS},
                "good called DEFECT": _count(mine, "false_alarms", "good"),
                "defects found": _count(mine, "defects_found", "defects"),
                "time (s)": f"{sum(m['seconds'] for m in mine) / len(mine):.0f}",
            }
        )
    return table


def _cell(values: Sequence[float], full: Sequence[float], compared: bool) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    interval = paired_interval(values, full, CONFIDENCE) if compared else None
    return mean if interval is None else f"{mean} ({interval[0]:+.3f} to {interval[1]:+.3f})"


def _count(rows: Sequence[Mapping[str, Any]], called: str, among: str) -> str:
    """How many of all seeds' samples were called defective; a dash for what has no threshold."""
    if any(row[called] is None for row in rows):
        return "-"
    return f"{sum(row[called] for row in rows)} of {sum(row[among] for row in rows)}"


def _machine(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{machine[name]} {unit}".strip() for name, unit in _MACHINE.items() if name in machine)
