"""The suite under pytest-benchmark: its tables, its JSON, and its comparison of one commit with another.

pytest-benchmark finishes one test before it starts the next, but peers must take turns. So a case is measured as a
whole when its first row is asked for, and pytest-benchmark measures a replay: a function that lets a clock pass the
time that was taken.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vsad.bench.cases import ALL_CASES, Case
from vsad.bench.peers import Peer, all_peers, is_ours


class Clock:
    """Stands still but for what is replayed."""

    now = 0.0

    def read(self) -> float:
        return self.now

    def replay(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()
EXTRA = ("peak_bytes", "gflops", "gbs", "share", "error")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    quick, device = (metafunc.config.getoption(option) for option in ("--quick", "--device"))
    cases = [case for case in ALL_CASES if case.quick or not quick if device in (None, case.device)]
    metafunc.parametrize(("case", "peer"), [row for case in cases for row in _rows(case, quick)])


def _rows(case: Case, quick: bool) -> list[Any]:
    """A row for every peer; one that is skipped where the case's device is missing."""
    if case.device == "cuda" and not torch.cuda.is_available():
        return [pytest.param(case, None, id=case.id, marks=pytest.mark.skip(reason="needs a GPU"))]
    return [pytest.param(case, peer, id=f"{case.id}-{peer.name}") for peer in _peers(case, quick)]


def _peers(case: Case, quick: bool) -> list[Peer]:
    return [peer for peer in all_peers() if peer.takes_part(case, compiled=not quick)]


@pytest.mark.benchmark(timer=CLOCK.read)
def test_row(case: Case, peer: Peer, suite: Any, benchmark: Any) -> None:
    row = suite.measure(case)[peer.name]
    if row.state == "wrong" and is_ours(peer.name):
        pytest.fail(f"{peer.name} is wrong: {row.reason}")
    if row.state != "timed":
        pytest.skip(f"{row.state}: {row.reason}")
    benchmark.group = f"{case.operator}, {case.direction}: {case.label}"
    benchmark.extra_info.update({name: getattr(row, name) for name in EXTRA})
    rounds = iter(row.seconds)
    benchmark.pedantic(CLOCK.replay, setup=lambda: ((next(rounds),), {}), rounds=len(row.seconds))
