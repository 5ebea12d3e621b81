"""The command that does all steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsad.cli.app import app
from vsad.cli.options import (
    Autoencoder,
    Changes,
    Data,
    Device,
    FalseAlarms,
    File,
    Graph,
    Memory,
    Network,
    Preset,
    Registered,
    Seed,
    Size,
    Steps,
    chosen,
)
from vsad.terminal import Bars, console, show_false_alarms, show_table, show_warnings


@app.command()
def run(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("out/run"),
    size: Size = None,
    graph: Graph = None,
    registration: Registered = None,
    preset: Preset = None,
    steps: Steps = None,
    memory: Memory = None,
    false_alarms: FalseAlarms = None,
    vae: Autoencoder = False,
    ablations: Annotated[bool, typer.Option(help="Also measure the model without alignment and a plain bank.")] = False,
    network: Network = None,
    seed: Seed = None,
    device: Device = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """All steps on a data set: calibrate, train, fit, detect, evaluate, report."""
    from vsad.pipeline import metrics_table
    from vsad.pipeline import run as run_all

    made = chosen(
        file, changes, size=size, graph=graph, registration=registration, preset=preset, steps=steps, memory=memory,
        false_alarms=false_alarms, ablations=ablations or None, vae={} if vae else None, network=network, seed=seed,
        device=device,
    )  # fmt: skip
    with Bars() as bars:
        results = run_all(data, out, made, bars)
    for category, outcome in results.items():
        console.print(category)
        show_table(metrics_table(outcome.rows))
        show_warnings(outcome.warnings)
        show_false_alarms(*outcome.false_alarms)
    print(out)
