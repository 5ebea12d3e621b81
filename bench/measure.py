"""Measures the suite's cases without pytest: ``python -m vsad.bench.measure --device cuda --results FOLDER``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vsad.bench import results
from vsad.bench.cases import ALL_CASES, Case
from vsad.bench.machine import slug
from vsad.bench.peers import Peer, all_peers, is_ours, is_yardstick
from vsad.bench.run import FULL, GPU, Runner

# Which peers are measured: our compiled kernels and yardsticks, also what runs no compiler first, or all.
PEERS: dict[str, Callable[[Peer], bool]] = {
    "kernels": lambda peer: peer.name in ("vsad cuda", "vsad cpu") or is_yardstick(peer.name),
    "eager": lambda peer: not peer.compiles and peer.name != "vsad triton",
    "compiled": lambda peer: True,
}
UNFINISHED = 75  # exit status: no time was left for the rest, and the same command goes on with it


def measure(
    runner: Runner, wanted: Iterable[Case], folder: Path, done: Path | None = None, seconds: float = float("inf")
) -> int:
    """Measure the cases that ``done`` does not name, add them there, and save after every case.

    A case that was begun before and did not end comes last, because it may end the process again.

    Returns:
        0 where all is well, 1 where one of our backends is wrong or has broken the GPU's context, ``UNFINISHED`` where
        ``seconds`` had passed before the last case was begun.
    """
    before = done.read_text().split() if done is not None and done.exists() else []
    cases = sorted((case for case in wanted if case.id not in before), key=lambda case: f"begun:{case.id}" in before)
    end, wrong = time.monotonic() + seconds, []
    for i, case in enumerate(cases):
        if time.monotonic() > end:
            print(f"{i} cases measured, {len(cases) - i} left")
            return UNFINISHED
        note(f"begun:{case.id}", done)
        rows = runner.measure(case)
        save(runner.results(rows), folder)
        for row in rows:
            print(f"{case.id:100} {row.peer:24} {row.state:8} {row.median_s or ''} {row.reason or ''}", flush=True)
        wrong += [f"FAILED {case.id} {row.peer}: {row.reason}" for row in rows if _fails(row)]
        note(case.id, done)
        if runner.broken:
            break
    print("\n".join([*wrong, f"{len(cases)} cases measured" if not wrong else f"{len(wrong)} rows of ours are wrong"]))
    return 1 if wrong else 0


def note(line: str, file: Path | None) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(f"{line}\n")


def save(new: results.Results, folder: Path) -> None:
    """Merge the rows into the machine's file."""
    path = folder / f"{slug(new.machine)}.json"
    results.save(results.load(path).merge(new) if path.exists() else new, path)


def _fails(row: results.Row) -> bool:
    return row.state == "wrong" and is_ours(row.peer)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the suite's cases on one device.")
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of <machine>.json")
    parser.add_argument("--operator", help="only this one's cases")
    parser.add_argument("--peers", choices=[*PEERS], default="compiled", help="which of them; each includes the former")
    parser.add_argument("--quick", action="store_true", help="only the quick cases")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so long")
    parser.add_argument("--done", type=Path, help="file of the cases that need not be measured; the others are added")
    options = parser.parse_args(arguments)
    wanted = [
        case
        for case in ALL_CASES
        if case.device == options.device
        and options.operator in (None, case.operator)
        and (case.quick or not options.quick)
    ]
    peers = [peer for peer in all_peers() if PEERS[options.peers](peer)]
    runner = Runner(GPU if options.device == "cuda" else FULL, peers, device=options.device)
    return measure(runner, wanted, options.results, options.done, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
