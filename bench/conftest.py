"""Options of the suite under pytest, and the writing of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vsad.bench import machine, results
from vsad.bench.run import FULL, QUICK, Runner


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vsad bench")
    group.addoption("--quick", action="store_true", help="only the quick cases, with short rounds")
    group.addoption("--results", type=Path, help="merge the rows into <folder>/<machine>.json")


class Session:
    """One runner for all cases; a case is measured when the first of its rows is asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self.folder: Path | None = config.getoption("--results")
        self.runner = Runner(QUICK if config.getoption("--quick") else FULL)
        self.rows: dict[str, list[results.Row]] = {}

    def measure(self, case: Any) -> dict[str, results.Row]:
        if case.id not in self.rows:
            self.rows[case.id] = self.runner.measure(case)
            self.save()  # what a long run has measured is kept, whatever ends it
        return {row.peer: row for row in self.rows[case.id]}

    def save(self) -> None:
        if self.folder is None:
            return
        path = self.folder / f"{machine.slug(machine.describe())}.json"
        new = self.runner.results(row for rows in self.rows.values() for row in rows)
        results.save(results.load(path).merge(new) if path.exists() else new, path)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Session:
    return Session(request.config)
