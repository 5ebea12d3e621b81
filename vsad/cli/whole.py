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
    Depth,
    Device,
    FalseAlarms,
    File,
    Format,
    Fresh,
    Graph,
    Memory,
    Network,
    PixelLimit,
    Preset,
    Quiet,
    Registered,
    Seed,
    Size,
    SkipBad,
    Steps,
    Threads,
    check_out,
    chosen,
)  # fmt: skip
from vsad.terminal import Bars, ListCommand, say, show_counts, show_skipped, show_table, show_warnings


@app.command(cls=ListCommand)
def run(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("out/run"),
    category: Annotated[
        list[str] | None, typer.Option(help="Products, of a data set of several; all of them by default.")
    ] = None,
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
    format: Format = None,
    depth: Depth = None,
    pixel_limit: PixelLimit = None,
    skip_bad: SkipBad = False,
    fresh: Fresh = False,
    threads: Threads = None,
    quiet: Quiet = False,
    file: File = None,
    changes: Changes = None,
) -> None:
    """All steps on a data set: calibrate, train, fit, detect, evaluate, report."""
    made = chosen(
        file, changes, size=size, graph=graph, registration=registration, preset=preset, steps=steps, memory=memory,
        false_alarms=false_alarms, ablations=ablations or None, vae={} if vae else None, network=network, seed=seed,
        device=device, format=format, depth=depth, pixel_limit=pixel_limit, skip_bad=skip_bad or None,
    )  # fmt: skip

    from vsad.data import missing_categories
    from vsad.models.hub import check_base
    from vsad.pipeline.categories import choose_categories

    check_out(out, data, command="run")
    check_base(made.valdm)
    choose_categories(data, category or (), made)
    absent = missing_categories(data, format=made.format)
    if absent and not category:
        show_warnings([f"no images of {', '.join(absent)}: these categories are left out"])

    from vsad.pipeline import metrics_table  # torch and diffusers take seconds to import
    from vsad.pipeline import run as run_all

    with Bars() as bars:
        results = run_all(data, out, made, bars, categories=category or (), fresh=fresh)
    for name, outcome in results.items():
        say(name)
        show_table(metrics_table(outcome.rows))
        show_skipped(outcome.skipped)
        show_warnings(outcome.warnings)
        show_counts(outcome.counts)
    print(out)
