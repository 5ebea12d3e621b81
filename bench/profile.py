"""Where the time of detecting a sample, and of a step of training, goes: ``python -m vsad.bench.profile``."""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from vsad.bench.cases import Case, detect, train
from vsad.bench.operators import model

# What is timed, as module, class or module, function; what a part calls of another part counts there.
PARTS = {
    "masks and checks": ["vsad.detection.detector:place", "vsad.detection.detector:as_images"],
    "autoencoder": ["vsad.models.valdm:VALDM.encode"],
    "local contrast": ["vsad.detection.network:FrozenNetwork.forward"],
    "UNet and MVAM: convolutions": ["torch.nn:Conv2d.forward"],
    "UNet and MVAM: group norms": ["torch.nn:GroupNorm.forward"],
    "UNet and MVAM: SiLU": ["torch.nn:SiLU.forward"],
    "UNet and MVAM: the rest": ["vsad.models.valdm:VALDM.forward"],
    "homography_align": ["vsad.models.mvam:homography_align", "vsad.models.frm:homography_align"],
    "FRM: the rest": ["vsad.models.valdm:VALDM.refine", "vsad.models.valdm:align_features"],
    "standardizing levels": ["vsad.models.valdm:normalize"],
    "memory": ["vsad.detection.level:Level.forward"],
    "fusing levels": ["vsad.detection.detector:Detector.fuse"],
    "agreement of views": ["vsad.detection.detector:agree_views"],
    "losses": ["vsad.bench.operators.model:losses_of"],
    "backward": ["torch:Tensor.backward"],
    "optimizer": ["torch.optim:AdamW.step"],
}
OTHER = "everything else"


class Stopwatch:
    """Seconds of each part, less those of the parts that it calls: of a clock, and of both threads' work."""

    def __init__(self) -> None:
        self.total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.inner: list[list[float]] = [[0.0, 0.0]]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self.inner.append([0.0, 0.0])
            start = now()
            try:
                return function(*arguments, **options)
            finally:
                spent = [after - before for before, after in zip(start, now())]
                within = self.inner.pop()
                for i in range(2):
                    self.inner[-1][i] += spent[i]
                    self.total[part][i] += spent[i] - within[i]

        return timed


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def profile(run: Callable[[], Any], rounds: int) -> dict[str, list[float]]:
    """Median milliseconds of every part, by the clock and of processor time."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    run()
    for _ in range(rounds):
        watch = Stopwatch()
        with ExitStack() as stack:
            for part, places in PARTS.items():
                for place in places:
                    stack.enter_context(_watched(watch, part, place))
            watch.wrap(OTHER, run)()
        for part, seconds in watch.total.items():
            found[part].append(seconds)
    return {p: [1e3 * statistics.median(column) for column in zip(*found[p])] for p in (*PARTS, OTHER) if p in found}


def _watched(watch: Stopwatch, part: str, place: str) -> Any:
    module, _, path = place.partition(":")
    *classes, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in classes:
        owner = getattr(owner, step)
    return mock.patch.object(owner, name, watch.wrap(part, getattr(owner, name)))


def table(title: str, parts: dict[str, list[float]]) -> str:
    clock, work = (sum(column) for column in zip(*parts.values()))
    lines = [f"### {title}", "", "| part | ms | processor ms | share |", "|---|---|---|---|"]
    lines += [f"| {part} | {a:.1f} | {b:.1f} | {100 * b / work:.0f} % |" for part, (a, b) in parts.items()]
    return "\n".join([*lines, f"| **all** | {clock:.1f} | {work:.1f} | |", ""])


def cases(preset: str, references: int) -> dict[str, Case]:
    """By title; with the weights of the levels where those are not all 1."""
    every = detect(preset, references, N=4)
    every = replace(every, sizes={**every.sizes, "network": "contrast"})
    return {
        "detect, all levels": every,
        "detect, latents and contrast": every,
        "a step of training": train(preset, N=4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of a model goes.")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--references", type=int, default=40, help="normal samples in the memory")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for title, case in cases(options.preset, options.references).items():
        problem = model.inputs(case)
        detector: Any = problem.module
        if title.endswith("contrast"):
            detector.config = replace(detector.config, weights=(1.0, 0.0, 1.0))
        print(table(f"{options.preset}: {title}", profile(model.step(problem), options.rounds)), flush=True)


if __name__ == "__main__":
    main()
