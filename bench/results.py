"""Results as strict JSON: one file per machine, one row per case and peer, and the rows that we lose too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vsad.bench.cases import Case

SCHEMA = 1
STATES = ("timed", "wrong", "skipped")


@dataclass(frozen=True)
class Row:
    """One peer on one case. Units are in the names; ``share`` is that of a measured ceiling, ``error`` that of the
    budget. What was not measured is None."""

    case: str
    operator: str
    sizes: dict[str, Any]
    dtype: str
    layout: str
    direction: str
    peer: str
    state: str
    reason: str | None = None
    median_s: float | None = None
    p20_s: float | None = None
    p80_s: float | None = None
    rounds: int = 0
    peak_bytes: int | None = None
    gflops: float | None = None
    gbs: float | None = None
    share: float | None = None
    error: float | None = None
    commit: str | None = None
    date: str | None = None
    seconds: tuple[float, ...] = field(default=(), compare=False)  # the time of every round; not stored

    @classmethod
    def of(cls, case: Case, peer: str, state: str, **rest: Any) -> Row:
        sizes = dict(case.sizes)
        return cls(case.id, case.operator, sizes, case.dtype, case.layout, case.direction, peer, state, **rest)


@dataclass
class Results:
    """Everything that was measured on one machine."""

    machine: dict[str, Any]
    libraries: dict[str, str]
    ceilings: dict[str, Any]
    rows: list[Row]

    def merge(self, newer: Results) -> Results:
        """The newer rows in place of the older ones of the same case and peer; cases keep their order."""
        rows = {(row.case, row.peer): row for row in [*self.rows, *newer.rows]}
        return Results(newer.machine, newer.libraries, newer.ceilings, list(rows.values()))

    def of_case(self, case: str) -> dict[str, Row]:
        return {row.peer: row for row in self.rows if row.case == case}


def save(results: Results, path: Path) -> None:
    """Write the file, one row per line; NaN and infinity raise."""
    head = {key: value for key, value in asdict(results).items() if key != "rows"}
    text = json.dumps({"schema": SCHEMA, **head}, indent=1, allow_nan=False)
    rows = [json.dumps(_stored(row), allow_nan=False) for row in results.rows]
    body = ",\n".join(f"  {row}" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")  # a run that is cut off while it writes leaves the old file
    new.write_text(f'{text[:-2]},\n "rows": [\n{body}\n ]\n}}\n')
    new.replace(path)


def load(path: Path) -> Results:
    """Read a file.

    Raises:
        ValueError: it is no strict JSON, of another schema, or a row has an unknown state.
    """

    def refuse(constant: str) -> float:
        raise ValueError(f"{path}: numbers must be finite, got {constant}")

    content = json.loads(path.read_text(), parse_constant=refuse)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema must be {SCHEMA}; measure again with `make bench`")
    rows = [Row(**row) for row in content["rows"]]
    for row in rows:
        if row.state not in STATES:
            raise ValueError(f"{path}: state must be one of {STATES}, got {row.state!r}")
    return Results(content["machine"], content["libraries"], content["ceilings"], rows)


def load_all(folder: Path) -> Iterable[tuple[Path, Results]]:
    return [(path, load(path)) for path in sorted(folder.glob("*.json"))]


def _stored(row: Row) -> dict[str, Any]:
    """Without what is None, and rounded to what a clock can tell."""
    values = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "seconds"}
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items() if v is not None}
