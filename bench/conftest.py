"""Options of the suite under pytest, and the writing of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vsad.bench import results
from vsad.bench.measure import save
from vsad.bench.run import FULL, GPU, QUICK, Runner


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vsad bench")
    group.addoption("--quick", action="store_true", help="only the quick cases, with short rounds")
    group.addoption("--device", choices=["cpu", "cuda"], help="only its cases; without it those of every device here")
    group.addoption("--results", type=Path, help="merge the rows into <folder>/<machine>.json")


class Session:
    """One runner for all cases of a device; a case is measured when the first of its rows is asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self.folder: Path | None = config.getoption("--results")
        self.efforts = {"cpu": QUICK, "cuda": QUICK} if config.getoption("--quick") else {"cpu": FULL, "cuda": GPU}
        self.runners: dict[str, Runner] = {}
        self.rows: dict[str, list[results.Row]] = {}

    def measure(self, case: Any) -> dict[str, results.Row]:
        if case.id not in self.rows:
            if case.device not in self.runners:
                self.runners[case.device] = Runner(self.efforts[case.device], device=case.device)
            runner = self.runners[case.device]
            self.rows[case.id] = runner.measure(case)
            if self.folder is not None:  # what a long run has measured is kept, whatever ends it
                save(runner.results(self.rows[case.id]), self.folder)
        return {row.peer: row for row in self.rows[case.id]}


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Session:
    return Session(request.config)
