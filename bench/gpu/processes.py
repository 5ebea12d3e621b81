"""Runs jobs, each in a process of its own, and stops those whose time is up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable

from vsad.bench.gpu.outcome import Outcome, outcome
from vsad.bench.gpu.parts import ROOT, Job, Part, Places
from vsad.bench.gpu.state import RUNNING, State

TOTAL_S = 720  # for all parts; a run that is cut off goes on where it stopped
GRACE_S = 8  # Between asking a process to stop and killing it: pytest writes its summary meanwhile.
HUNG = "hung"
PATIENCE = 3  # A job that takes so many times as long as expected hangs.
NO_GPU = "needs a GPU that torch can use"


def run(
    parts: Iterable[Part],
    state: State,
    places: Places,
    total_s: float = TOTAL_S,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Run the jobs that have not passed, in the order of the parts; call ``after`` whenever one begins or ends.

    A part has the time that it is planned for, as far as there is time, and what the later ones do not need. All jobs
    are in the state from the beginning, so that it is right however this process ends.
    """
    parts = list(parts)
    state.expect([f"{part.name}/{job.name}" for part in parts for job in part.jobs(places)])
    todo = [p for p in parts if not all(state.passed(f"{p.name}/{job.name}") for job in p.jobs(places))]
    end = time.monotonic() + total_s
    for i, part in enumerate(todo):
        left = max(0.0, end - time.monotonic())
        seconds = max(left - sum(later.limit_s for later in todo[i + 1 :]), min(part.limit_s, left))
        print(f"--- {part.name}: {part.says} ({seconds:.0f} s)", flush=True)
        if part.needs_gpu and state.key["gpu"] is None:
            for job in part.jobs(places):
                state.record(f"{part.name}/{job.name}", Outcome("skipped", note=NO_GPU))
            print(NO_GPU)
            after()
        else:
            run_part(part, state, places, seconds, after)


def broken(state: State, family: str | None) -> str | None:
    """That a smoke job of the family hung or crashed, and which. One that is only wrong endangers no other."""
    for name, ended in state.outcomes.items():
        if family and name.startswith(f"smoke/{family}") and re.match(f"{HUNG}|ended by signal", ended.note or ""):
            return f"{name} hung or crashed"
    return None


def run_part(part: Part, state: State, places: Places, seconds: float, after: Callable[[], object]) -> None:
    """Run the part's jobs that have not passed; those that do not end within ``seconds`` are stopped.

    One in whose time an earlier run was killed comes last: it may end this one too.
    """
    waiting = [job for job in part.jobs(places) if not state.passed(f"{part.name}/{job.name}")]
    waiting.sort(key=lambda job: state.outcomes[f"{part.name}/{job.name}"].note == RUNNING)
    end = time.monotonic() + seconds
    running: list[Process] = []

    def finish(name: str, ended: Outcome) -> None:
        state.record(name, ended)
        print(f"{ended.state:8}{name:45}{ended.seconds:6.1f} s  {ended.note or ''}", flush=True)
        after()

    try:
        while waiting or running:
            while waiting and len(running) < part.at_once:
                job = waiting.pop(0)
                name, left = f"{part.name}/{job.name}", end - time.monotonic()
                reason = job.missing or broken(state, job.family)
                if reason:
                    finish(name, Outcome("skipped", note=reason))
                elif left <= 0:
                    finish(name, Outcome("cut", note="no time was left"))
                elif job.would_be_cut(left):
                    finish(name, Outcome("cut", note=f"takes about {job.expected_s:.0f} s, {left:.0f} were left"))
                else:
                    share = job.weight / (job.weight + sum(later.weight for later in waiting))
                    state.record(name, Outcome("cut", note=RUNNING))
                    after()
                    running.append(Process(job, name, places, share * left, part.at_once))
            for process in list(running):
                if process.ended(cut=time.monotonic() > end):
                    running.remove(process)
                    finish(process.name, process.outcome())
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()


class Process:
    """A job that runs, in a process group of its own. Its output goes to a log."""

    def __init__(self, job: Job, name: str, places: Places, seconds: float, at_once: int) -> None:
        self.name, self.cut_at, self.hung = name, 0.0, False
        self.log = places.folder / "logs" / f"{name.replace('/', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        threads = str(max(1, (os.cpu_count() or 1) // at_once))  # Of many processes, each would take all cores.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [f"{seconds:.0f}" if word == "{seconds}" else word for word in job.command],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=job.folder,
                env={"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path, **job.environment},
                start_new_session=True,
                # Background jobs of a shell ignore SIGINT, and their children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        self.start = time.monotonic()
        self.latest = self.start + PATIENCE * job.expected_s

    def ended(self, cut: bool) -> bool:
        """Whether the process has ended. ``cut``: the part's time is up.

        A process whose time is up, or its own, is asked to stop, and killed where it does not.
        """
        if self.process.poll() is not None:
            return True
        if (cut or time.monotonic() > self.latest) and not self.cut_at:
            self.hung = not cut
            self.cut_at = time.monotonic()
            os.killpg(self.process.pid, signal.SIGINT)
        elif self.cut_at and time.monotonic() > self.cut_at + GRACE_S:
            self.kill()
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self) -> Outcome:
        seconds = round(time.monotonic() - self.start, 1)
        if self.hung:
            return Outcome("failed", seconds, f"{HUNG}: it took {PATIENCE} times as long as expected, and was stopped")
        return outcome(self.process.returncode, self.log.read_text(errors="replace"), seconds, bool(self.cut_at))
