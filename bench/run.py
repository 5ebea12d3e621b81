"""Measuring: judge every peer of a case first, then time the right ones in turns, in one process."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from vsad.bench import cuda, machine, memory, operators
from vsad.bench.cases import Case
from vsad.bench.operators import Judge, Problem, WrongError
from vsad.bench.peers import Peer, Run, UnsupportedError, all_peers, is_kernel, is_yardstick
from vsad.bench.results import Results, Row

# Faster peers run once untimed in every turn: another's caches and spinning threads are not theirs. So do whole models,
# whose memory another may have given back to the system, page by page.
WARM_BELOW_S, WARM_MODEL_BELOW_S = 0.1, 30.0


BROKEN = "an earlier peer broke the GPU's context"
Clock = Callable[[Run], float]  # seconds of one call


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        seconds: time of the timed rounds of each peer of a case.
        most_rounds: maximum number of rounds, which fast peers reach.
        longest_s: a peer that is expected to take longer for one call is left out, unless it is ours or a target's.
        compiled: let peers take part that run a compiler first, on the cases that ask for it.
    """

    seconds: float = 1.0
    most_rounds: int = 30
    longest_s: float = 3.0
    compiled: bool = True

    def rounds(self, call_s: float) -> int:
        fewest = 3 if call_s < 6 * self.seconds else 1
        return min(self.most_rounds, max(fewest, int(self.seconds / call_s)))


FULL = Effort()
QUICK = Effort(seconds=0.4, most_rounds=15, compiled=False)
GPU = Effort(seconds=0.2, most_rounds=50)


@dataclass(frozen=True)
class Ready:
    """A peer that is right: what is to be timed, about how long it takes, its error over the budget, its memory; and
    what a reader must know of one that is not quite right."""

    run: Run
    call_s: float
    error: float | None
    peak_bytes: int | None
    note: str | None = None


@dataclass
class Runner:
    """Measures cases one by one, and remembers how fast each peer was to foresee how long it will take.

    Args:
        deadline: latest value of ``time.monotonic``; peers that come after it are left out.
        device: device of the cases to come.
    """

    effort: Effort = FULL
    peers: list[Peer] = field(default_factory=all_peers)
    deadline: float | None = None
    ceilings: dict[str, Any] | None = None
    commit: str | None = field(default_factory=machine.commit)
    device: str = "cpu"
    rates: dict[tuple[str, str, str], float] = field(default_factory=dict)
    broken: bool = False

    def __post_init__(self) -> None:
        if self.ceilings is None:
            self.ceilings = machine.ceilings(self.device)
        self.clock: Clock = cuda.Clock() if self.device == "cuda" else seconds_of

    def measure(self, case: Case) -> list[Row]:
        """A row for every peer that has the operator."""
        peers = [peer for peer in self.peers if peer.takes_part(case, self.effort.compiled)]
        problem = operators.of(case).inputs(case)
        judge: list[Judge] = []  # made once, and only if there is somebody to judge
        rows: dict[str, Row] = {}
        runs: dict[str, Ready] = {}
        for peer in peers:
            try:
                self._refuse(peer, case)
                judge = judge or [operators.of(case).judge(problem)]
                rows[peer.name] = self._row(case, peer.name, "timed")
                runs[peer.name] = self._ready(peer, problem, judge[0])
            except WrongError as wrong:
                rows[peer.name] = self._row(case, peer.name, "wrong", reason=str(wrong))
            except UnsupportedError as reason:
                rows[peer.name] = self._row(case, peer.name, "skipped", reason=str(reason))
            except Exception as error:  # a library may fail in any way; the others go on
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                state = "wrong" if is_kernel(peer.name) and not _excused(error, case) else "skipped"
                rows[peer.name] = self._row(case, peer.name, state, reason=text[:200])
                self.broken = self.broken or (self.device == "cuda" and not cuda.works())
        rounds = {name: (ready.run, self.effort.rounds(ready.call_s)) for name, ready in runs.items()}
        warm_s = WARM_MODEL_BELOW_S if case.operator == "model" else WARM_BELOW_S
        times = {} if self.broken else in_turns(rounds, self.clock, warm_s)
        for name in runs.keys() - times.keys():
            rows[name] = self._row(case, name, "skipped", reason=BROKEN)
        for name, seconds in times.items():
            rows[name] = self._timed(case, name, seconds, runs[name])
        return list(rows.values())

    def results(self, rows: Iterable[Row]) -> Results:
        return Results(machine.describe(self.device), machine.libraries(), self.ceilings or {}, list(rows))

    def _refuse(self, peer: Peer, case: Case) -> None:
        if self.broken:
            raise UnsupportedError(BROKEN)
        if peer.missing:
            raise UnsupportedError(peer.missing)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise UnsupportedError("the time was up")
        guesses = peer.gflops if case.device == "cpu" else peer.gpu_gflops
        guess = 1e-9 / guesses.get(case.operator, float("inf"))
        rate = self.rates.get((peer.name, case.operator, case.direction), guess)  # seconds an operation
        expected_s = operators.of(case).flops(case) * rate
        wanted = any(peer.name in target.against for target in case.targets)
        if expected_s > self.effort.longest_s and not wanted and not is_kernel(peer.name):
            raise UnsupportedError(f"would take about {expected_s:.0f} s for one call")

    def _ready(self, peer: Peer, problem: Problem, judge: Judge) -> Ready:
        """Judge a peer, then call once more: the first call pays for what is loaded."""
        prepare = peer.operators[problem.case.operator]
        run = prepare(judge.problem)
        error, note = self._judged(peer, run, judge)
        if judge.problem is not problem:
            run = prepare(problem)
            run()  # what its first call at this size keeps is not counted
        peak, call_s = memory.peak_bytes(run, self.device)
        if call_s < WARM_BELOW_S:  # most of it was the system's, which had been given the memory back
            call_s = self.clock(run)
        flops = operators.of(problem.case).flops(problem.case)
        if flops:
            self.rates[peer.name, problem.case.operator, problem.case.direction] = call_s / flops
        return Ready(run, call_s, error, peak, note)

    def _judged(self, peer: Peer, run: Run, judge: Judge) -> tuple[float | None, str | None]:
        """Its error over the budget, and a note where it may be off."""
        result = run()
        if is_yardstick(peer.name):
            return None, "the work alone, no result"
        try:
            return judge.check(result), None
        except WrongError as wrong:
            if not peer.approximate:
                raise
            return None, f"not exact: {wrong}"

    def _timed(self, case: Case, peer: str, seconds: list[float], ready: Ready) -> Row:
        op, median = operators.of(case), statistics.median(seconds)
        flops, bytes = op.flops(case), op.bytes(case)
        return self._row(
            case,
            peer,
            "timed",
            median_s=median,
            p20_s=quantile(seconds, 0.2),
            p80_s=quantile(seconds, 0.8),
            rounds=len(seconds),
            peak_bytes=ready.peak_bytes,
            gflops=flops / median / 1e9,
            gbs=bytes / median / 1e9,
            share=machine.share_of_ceiling(case, flops, bytes, median, self.ceilings or {}),
            error=ready.error,
            reason=ready.note,
            seconds=tuple(seconds),
        )

    def _row(self, case: Case, peer: str, state: str, **rest: Any) -> Row:
        return Row.of(case, peer, state, commit=self.commit, date=datetime.date.today().isoformat(), **rest)


def _excused(error: Exception, case: Case) -> bool:
    """Whether one of our kernels may fail so: it refuses the call, or memory is short."""
    refuses = isinstance(error, RuntimeError) and str(error).startswith(f"{case.operator}: backend ")
    return refuses or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def seconds_of(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(
    runs: dict[str, tuple[Callable[[], Any], int]], clock: Clock = seconds_of, warm_s: float = WARM_BELOW_S
) -> dict[str, list[float]]:
    """Times of every run, A B C A B C, so that what disturbs the machine disturbs all alike.

    A run with fewer rounds takes its turns evenly spread over those of the others. One below ``warm_s`` runs once
    untimed in every turn.
    """
    most = max((rounds for _, rounds in runs.values()), default=0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(most):
        for name, (run, rounds) in runs.items():
            if (turn * rounds) // most == ((turn + 1) * rounds) // most:
                continue
            if times[name][-1] < warm_s if times[name] else rounds > 3 or warm_s > WARM_BELOW_S:
                run()
            times[name].append(clock(run))
    return times


def quantile(values: list[float], share: float) -> float:
    """Linear between the sorted values."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
