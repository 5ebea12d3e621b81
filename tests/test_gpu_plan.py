"""The plan of ``bench.gpu.check`` for fifteen minutes on a GPU, on a clock that only the jobs move."""

import re
from dataclasses import replace

import pytest

from vsad.bench.gpu import check as gpu_check
from vsad.bench.gpu import parts, processes
from vsad.bench.gpu.outcome import Outcome
from vsad.bench.gpu.parts import PARTS, ROOT, Places
from vsad.bench.gpu.state import State

KEY = {"sources": "abc", "gpu": "NVIDIA H200", "torch": "2.11", "python": "3.12"}
AT_ONCE = 14  # jobs at a time beside 16 cores
IMPORTS_S = 8  # until the first job begins: torch is imported, and asks for the GPU
# Calls of so many seconds, and what each must have shown by its end where all takes as long as expected.
FIRST_S, SECOND_S = 330, 400
FIRST = ("build/", "smoke/", "speed/", "align/", "tests/")
SECOND = ("model/", "more/", "profile/")


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += 0.5


def simulated(clock, slower=1.0, hangs=()):
    """A class in place of ``Process`` whose jobs take what is expected of them, times ``slower``."""

    class Process:
        def __init__(self, job, name, places, seconds, at_once):
            self.name, self.start, self.cut = name, clock.now, False
            asked = "{seconds}" in job.command
            self.takes = float("inf") if name in hangs else slower * job.expected_s
            self.unfinished = asked and seconds < self.takes
            self.takes = min(self.takes, seconds) if asked and name not in hangs else self.takes
            self.latest = self.start + processes.PATIENCE * job.expected_s

        def ended(self, cut):
            self.cut = cut or clock.now > self.latest
            return self.cut or clock.now >= self.start + self.takes

        def outcome(self):
            seconds = clock.now - self.start
            if seconds < self.takes and clock.now > self.latest:
                return Outcome("failed", seconds, f"{processes.HUNG}: it took too long")
            return Outcome("cut" if self.unfinished or seconds < self.takes else "passed", seconds, "done")

        def kill(self):
            raise AssertionError("a run that ends leaves no job running")

    return Process


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs the plan as a call of so many seconds does; returns its outcomes and the names of what ended in it."""
    clock = Clock()
    monkeypatch.setattr(processes, "time", clock)
    monkeypatch.setattr(parts, "find_spec", lambda name: name)
    monkeypatch.setattr(parts, "tool", lambda name: (name, None))
    state = State(tmp_path / "state.json", KEY)
    chosen = [part if part.at_once == 1 else replace(part, at_once=AT_ONCE) for part in PARTS.values()]

    def called(seconds, fresh=False, **options):
        monkeypatch.setattr(processes, "Process", simulated(clock, **options))
        if fresh:
            state.forget({"build"})
        began, before = clock.now, dict(state.outcomes)
        clock.now += IMPORTS_S
        left = seconds - IMPORTS_S - processes.GRACE_S - gpu_check.SUMMARY_S
        processes.run(chosen, state, Places(tmp_path, tmp_path, "tag"), left)
        assert clock.now - began <= seconds
        return state.outcomes, {name for name, ended in state.outcomes.items() if before.get(name) is not ended}

    return called


def missing(outcomes, *prefixes):
    """What begins so and has not passed."""
    return {name: o.note for name, o in outcomes.items() if name.startswith(prefixes) and o.state != "passed"}


@pytest.mark.parametrize("fresh", [True, False])
def test_two_calls_show_what_the_page_promises(call, fresh):
    """The second on a machine that has to build again, or has the first one's module."""
    outcomes, _ = call(FIRST_S)
    assert missing(outcomes, *FIRST) == {}
    done = {name for name, ended in outcomes.items() if ended.state == "passed"}
    outcomes, ended = call(SECOND_S, fresh)
    assert missing(outcomes, *FIRST, *SECOND) == {}
    assert {name.split("/")[0] for name in ended & done} == ({"build"} if fresh else set())
    assert outcomes["bench/cases"].seconds > 30
    assert fresh or len(missing(outcomes, "triton/contracts")) <= 1


def test_a_machine_that_is_slower_by_a_third_shows_the_first_of_it(call):
    outcomes, _ = call(FIRST_S, slower=4 / 3)
    assert missing(outcomes, *FIRST[:4]) == {}
    outcomes, _ = call(SECOND_S, fresh=True, slower=4 / 3)
    assert missing(outcomes, *FIRST, *SECOND[:2]) == {}


def test_what_hangs_costs_its_family_and_little_time(call):
    hung = "smoke/align-tensor-cores-40"
    outcomes, _ = call(FIRST_S, hangs=(hung, "speed/greedy_coreset"))
    assert {name for name, o in outcomes.items() if o.state == "failed"} == {hung, "speed/greedy_coreset"}
    assert outcomes["align/forward"] == Outcome("skipped", note=f"{hung} hung or crashed")
    assert missing(outcomes, "speed/prototype", "speed/homography_warp", "tests/matrix-homography_warp") == {}
    outcomes, ended = call(SECOND_S, fresh=True)
    assert {hung, "align/forward", "speed/greedy_coreset"} <= ended
    assert missing(outcomes, *FIRST, *SECOND[:2]) == {}


def test_every_job_says_what_it_takes_and_is_stopped_within_its_call(tmp_path):
    for part in PARTS.values():
        for job in part.jobs(Places(tmp_path, tmp_path, "tag")):
            assert job.expected_s <= SECOND_S, job.name
            assert "{seconds}" in job.command or job.expected_s <= part.limit_s, job.name


def test_the_profiled_kernels_are_those_of_their_operator():
    for kernels, count, case in [*parts.BOUND.values(), *parts.PROFILED.values()]:
        (operator,) = [op for op in parts.FAMILIES if case.startswith(op)]
        sources = [path.read_text() for path in (ROOT / "csrc" / operator / "cuda").glob("*.cu")]
        names = {name for text in sources for name in re.findall(r"\b(\w+_kernel)\(", text)}
        found = {name for name in names if re.search(kernels, name)}
        assert len(found) >= count, case
