"""Regenerate launch tables on a GPU: ``python -m vsad.bench.tune homography_align --backend triton``.

A module of kernels offers what may be tried beside its constants::

    TILE = (16, 32)
    LAUNCH = {"narrow": {"BLOCK": 64, "num_warps": 4}, "wide": {"BLOCK": 32, "num_warps": 8}}
    CANDIDATES = {"TILE": [(8, 64), (32, 16)], "LAUNCH": {"wide": [{"BLOCK": 64, "num_warps": 8}]}}

A constant is replaced as a whole; of a table, only entries that the case looks up. Launchers must read them at every
call. One is changed at a time, results are judged before they are timed, and what to paste is printed.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import vsad
from vsad.bench import cuda, operators
from vsad.bench.cases import CUDA_CASES, SHAPES, Case
from vsad.bench.operators import WrongError
from vsad.bench.peers import Run
from vsad.bench.peers.own import OPERATORS

ROUNDS = 15
FOLDERS = {"triton": ("vsad.kernels", "kernels"), "cuda": ("vsad.ops.cuda", "ops/cuda")}
Clock = Callable[[Run], float]


class Table(dict[Any, Any]):
    """A table that remembers which of its entries were looked up."""

    def __init__(self, entries: Mapping[Any, Any]) -> None:
        super().__init__(entries)
        self.seen: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)


@dataclass
class Knob:
    """A constant (``key`` None) or an entry of a table, what ships, and what may take its place.

    ``seconds``: by candidate, "ships" among them, and by case.
    """

    module: ModuleType
    name: str
    key: Any
    candidates: list[Any]
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def ships(self) -> Any:
        value = getattr(self.module, self.name)
        return value if self.key is None else value[self.key]

    @property
    def label(self) -> str:
        where = "" if self.key is None else f"[{self.key!r}]"
        return f"{self.module.__name__.rsplit('.', 1)[-1]}.{self.name}{where}"

    @contextmanager
    def turned(self, value: Any) -> Iterator[None]:
        before = getattr(self.module, self.name)
        setattr(self.module, self.name, value if self.key is None else {**before, self.key: value})
        forget(self.module)
        try:
            yield
        finally:
            setattr(self.module, self.name, before)
            forget(self.module)

    def best(self) -> tuple[str, float]:
        """The candidate with the least time over that of what ships, and that ratio; a mean over cases."""

        def relative(times: Mapping[str, float]) -> float:
            ratios = [math.log(times[case] / self.seconds["ships"][case]) for case in times]
            return math.exp(statistics.fmean(ratios))

        complete = {c: t for c, t in self.seconds.items() if t.keys() == self.seconds["ships"].keys()}
        return min(((c, relative(t)) for c, t in complete.items()), key=lambda pair: pair[1])


def forget(module: ModuleType) -> None:
    """Empty the caches of functions that may have decided by the old value."""
    for value in list(vars(module).values()):
        if callable(clear := getattr(value, "cache_clear", None)):
            clear()


def modules(operator: str, backend: str) -> list[ModuleType]:
    """The operator's modules of one backend: ``<op>`` and ``<op>_*``."""
    package, folder = FOLDERS[backend]
    files = sorted((Path(vsad.__file__).parent / folder).glob(f"{operator}*.py"))
    return [importlib.import_module(f"{package}.{file.stem}") for file in files]


def knobs(found: Iterable[ModuleType]) -> list[Knob]:
    turned = []
    for module in found:
        for name, offered in getattr(module, "CANDIDATES", {}).items():
            entries = offered if isinstance(offered, Mapping) else {None: offered}
            turned += [Knob(module, name, key, list(candidates)) for key, candidates in entries.items()]
    return turned


def looked_up(knob: Knob, run: Run) -> bool:
    """Whether this call depends on the knob; of a constant nobody can tell."""
    if knob.key is None:
        return True
    before = getattr(knob.module, knob.name)
    table = Table(before)
    setattr(knob.module, knob.name, table)
    forget(knob.module)
    try:
        run()
    finally:
        setattr(knob.module, knob.name, before)
        forget(knob.module)
    return knob.key in table.seen


def try_all(case: Case, backend: str, turned: list[Knob], clock: Clock, say: Callable[[str], None] = print) -> None:
    """Time every candidate of every knob that the case depends on."""
    problem = operators.of(case).inputs(case)
    judge = operators.of(case).judge(problem)
    prepare = partial(OPERATORS[case.operator], backend=backend)
    run = prepare(problem)
    say(f"{case.id}")
    for knob in turned:
        if not looked_up(knob, run):
            continue
        for label, value in [("ships", knob.ships), *((repr(value), value) for value in knob.candidates)]:
            with knob.turned(value):
                try:
                    judge.check(prepare(judge.problem)())
                    run()
                    seconds = statistics.median(clock(run) for _ in range(ROUNDS))
                except (WrongError, RuntimeError, ValueError, TypeError) as error:
                    say(f"    {knob.label} = {label}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
                    continue
            knob.seconds.setdefault(label, {})[case.id] = seconds
            say(f"    {knob.label} = {label}: {1e6 * seconds:.1f} us")


def advice(turned: Iterable[Knob]) -> list[str]:
    """What to paste: a line a knob."""
    lines = []
    for knob in turned:
        if "ships" not in knob.seconds:
            lines.append(f"{knob.label}: no case depends on it, or what ships failed")
            continue
        best, ratio = knob.best()
        value = repr(knob.ships) if best == "ships" else best
        change = "as it ships" if best == "ships" else f"{ratio:.3f} of the time of {knob.ships!r}"
        lines.append(f"{knob.label} = {value}    # {change}, over {len(knob.seconds['ships'])} cases")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the launch shapes that a module of kernels offers.")
    parser.add_argument("operator", choices=list(SHAPES))
    parser.add_argument("--backend", choices=list(FOLDERS), default="triton")
    parser.add_argument("--only", default="", help="part of the names of the cases to use")
    options = parser.parse_args(arguments)
    turned = knobs(modules(options.operator, options.backend))
    if not turned:
        print(f"{options.operator}: the modules of {options.backend} offer no CANDIDATES; nothing to try")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("needs a GPU")
        return 1
    clock = cuda.Clock()
    for case in CUDA_CASES:
        if case.operator == options.operator and options.only in case.id:
            try_all(case, options.backend, turned, clock)
    print("\n".join(["", *advice(turned)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
