"""Takes steps of training in each way that a device has its own kernels for, and compares their losses with a CPU's.

    python -m vsad.bench.gpu.steps --device cuda --preset small

Each way trains the same weights on the same samples, noise and time steps: a model with MVAMs, an FRM and a
HomographyNet, its features channels last, by a fused AdamW. A checkpoint is written at the end of each.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from vsad.bench.operators.model import ring
from vsad.models.presets import PRESETS, model_config
from vsad.models.valdm import VALDM, new_model
from vsad.training import Station, TrainConfig, train
from vsad.training.draws import Passes
from vsad.training.objective import Objective

SAMPLES, BATCH, STEPS = 4, 2, 4
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, activations computed anew": {"checkpointing": True},
    "float32, two passes a step": {"accumulation": 2},
    "bfloat16, an adversary": {"mixed_precision": "bf16", "adversarial": 0.1},
    "float16, an adversary": {"mixed_precision": "fp16", "adversarial": 0.1},
}
# How far a loss of the first step may be from a CPU's in float32, relative to it.
TOLERANCES = {"no": 2e-3, "bf16": 5e-2, "fp16": 1e-2}


def station_of(model: VALDM, views: int, side: int) -> Station:
    """Samples of cameras on a ring that see smooth pictures."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(SAMPLES * views, 3, side // 8, side // 8, generator=g)
    images = F.interpolate(coarse, (side, side), mode="bilinear").unflatten(0, (SAMPLES, views))
    with torch.no_grad():
        return Station(model.encode(images), ring(g, views, 2, (side, side)))


def expected_losses(model: VALDM, station: Station, config: TrainConfig) -> dict[str, float]:
    """The losses of the first step by plain torch, in float32 on the CPU."""
    first = Passes([station], config)[0]
    with torch.no_grad():
        found = Objective(model, config)(first.clean, first.noise, first.timesteps, station.rig, 0)
    return {name: float(term) for name, term in found.terms.items()}


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The log of a training, a row for each step."""
    with (folder / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def wrong(rows: list[dict[str, float]], expected: dict[str, float], tolerance: float) -> list[str]:
    """The losses of the first step that are off, in words; ``train`` itself refuses those that are not finite."""
    return [
        f"{name} is {rows[0][name]:.5g}, {value:.5g} on the CPU"
        for name, value in expected.items()
        if not abs(rows[0][name] - value) <= tolerance * abs(value)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="where to train; accelerate takes a GPU where there is one")
    parser.add_argument("--preset", choices=[*PRESETS], default="tiny")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    options = parser.parse_args()
    on_gpu = torch.device(options.device).type == "cuda"
    config = model_config(options.preset, {"homographies": "refined"})
    station = station_of(new_model(config, 0).eval(), options.views, options.side)
    expected = expected_losses(new_model(config, 0), station, TrainConfig(steps=STEPS, batch=BATCH))
    failed = []
    for way, changes in WAYS.items():
        how = TrainConfig(steps=STEPS, batch=BATCH, **changes)
        if how.mixed_precision == "fp16" and not on_gpu:
            print(f"{way}: needs a GPU")
            continue
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            train(new_model(config, 0).to(options.device), station, how, folder=folder)
            rows = rows_of(Path(folder))
        moments = [row["seconds"] for row in rows]
        step_s = statistics.median(b - a for a, b in zip(moments, moments[1:]))
        peak = f", {torch.cuda.max_memory_allocated() / 1e6:.0f} MB" if on_gpu else ""
        totals = " ".join(f"{row['total']:.4f}" for row in rows)
        print(f"{way}: {1e3 * step_s:.0f} ms a step of {BATCH} samples{peak}; losses {totals}", flush=True)
        failed += [f"{way}: {what}" for what in wrong(rows, expected, TOLERANCES[how.mixed_precision])]
    if failed:
        raise SystemExit("\n".join(failed))
    print(f"the losses of a first step are those of a CPU: {', '.join(f'{n} {v:.4f}' for n, v in expected.items())}")


if __name__ == "__main__":
    main()
