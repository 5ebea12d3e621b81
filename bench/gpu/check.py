"""Build, test and measure on a machine with a GPU, in parts that remember how they ended.

    python -m vsad.bench.gpu.check

Needs a compiler, CUDA's toolkit, torch, Triton, pybind11, pytest and ninja; installs nothing and needs no network. A
part is a list of jobs, each a process of its own: one that breaks the GPU's context breaks no other. What passed is
not repeated while the sources, the GPU, torch and Python stay the same, so a run that was cut off goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from vsad.bench.gpu import archive
from vsad.bench.gpu.outcome import Outcome
from vsad.bench.gpu.parts import PARTS, ROOT, Part, Places
from vsad.bench.gpu.processes import GRACE_S, TOTAL_S, run
from vsad.bench.gpu.state import State, machine_key, module, tag
from vsad.bench.gpu.summary import write

SUMMARY_S = 3  # for the last summary and archive


def exit_code(outcomes: Iterable[Outcome], nothing_proved: bool = False) -> int:
    """0: passed, or skipped for a reason; 1: something failed; 2: there is no GPU; 3: something was cut off."""
    states = {o.state for o in outcomes}
    return 1 if "failed" in states else 2 if nothing_proved else 3 if "cut" in states else 0


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, test and measure on a machine with a GPU, without a network.")
    parser.add_argument("--part", action="append", choices=[*PARTS, "summary"], help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the parts and how their jobs ended")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="be done by then (%(default)s)")
    parser.add_argument("--again", action="store_true", help="repeat what has passed")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "gpu-check", help="of state.json and logs")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="of measurements and summary")
    return parser.parse_args(arguments)


def print_commands(parts: list[Part], places: Places) -> None:
    for part in parts:
        for job in part.jobs(places):
            print(f"{part.name}/{job.name}: {job.missing or ' '.join(job.command)}")


def print_outcomes(parts: list[Part], state: State) -> None:
    for part in parts:
        print(f"{part.name:10} {part.limit_s:4.0f} s  {part.says}")
        for name, ended in state.outcomes.items():
            if name.startswith(f"{part.name}/"):
                print(f"    {ended.state:8}{name:45}{ended.note or ''}")


def main(arguments: list[str] | None = None) -> int:
    began, options = time.monotonic(), options_of(arguments)
    key = machine_key()
    places = Places(options.results.resolve(), options.folder.resolve(), tag(key))
    parts = [part for name, part in PARTS.items() if options.part is None or name in options.part]
    chosen = {part.name for part in parts}
    if options.dry_run:
        print_commands(parts, places)
        return 0
    state = State.load(places.folder / "state.json", key)
    state.forget_missing_build()
    if options.list:
        print_outcomes(parts, state)
        return 0
    if options.again:
        state.forget(chosen)
        for measured in places.folder.glob("measured-*.txt"):
            measured.unlink()

    def summarize() -> Path:
        # Without a GPU the page proves nothing: it stays with the logs.
        return write(state.outcomes, key, places.results if key["gpu"] else places.folder)

    kept = {
        "gpu-check": [places.folder, places.results],
        "gpu-check-profiles": [places.profiles],
        "gpu-check-build": [module()],
    }
    with archive.renewed(kept, os.environ.get("OUT")):
        # The last jobs are asked to stop, and the last summary is written, within the time that was given.
        run(parts, state, places, options.seconds - (time.monotonic() - began) - GRACE_S - SUMMARY_S, summarize)
        page = summarize()
    print(page.read_text())
    print(page)
    asked = [ended for name, ended in state.outcomes.items() if name.split("/")[0] in chosen]
    return exit_code(asked, nothing_proved=key["gpu"] is None and any(part.needs_gpu for part in parts))


if __name__ == "__main__":
    sys.exit(main())
