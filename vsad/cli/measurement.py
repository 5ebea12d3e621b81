"""Commands that measure: what the parts of the method are worth, how fast the operators are, and what is built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vsad.cli.app import app
from vsad.cli.options import (
    Changes,
    File,
    Preset,
    Steps,
    chosen,
)
from vsad.terminal import Bars, ListCommand, console, show_table


@app.command(cls=ListCommand)
def ablate(
    out: Annotated[Path, typer.Argument(help="Folder; what it holds of an earlier call is not measured again.")],
    stations: Annotated[list[str] | None, typer.Option(help="Some of the hard stations; without it all.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="Seeds; without it 1000 1001 1002.")] = None,
    rows: Annotated[list[str] | None, typer.Option(help="Some of the rows; without it all.")] = None,
    purpose: Annotated[str, typer.Option(help="report (seeds 1000 to 1099) or development (0 to 99).")] = "report",
    preset: Preset = None,
    steps: Steps = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """What each part of the method is worth: hard stations with all parts, and without one at a time."""
    from vsad.data.synth import HARD_STATIONS
    from vsad.files import check_writable
    from vsad.models.hub import check_base
    from vsad.pipeline.ablation_changes import ROWS, check_ablation

    stations, seeds = stations or list(HARD_STATIONS), seeds or [1000, 1001, 1002]
    reads = ("preset", "model", "size", "graph", "registration", "network", "train", "detector", "device")
    made = chosen(file, changes, reads=reads, preset=preset, steps=steps)
    check_ablation(stations, seeds, purpose, out, rows or ROWS)
    check_writable(out)
    check_base(made.valdm)

    from vsad.bench.machine import commit, describe  # torch and diffusers take seconds to import
    from vsad.pipeline import TABLES, ablation_tables
    from vsad.pipeline import ablate as measure

    with Bars() as bars:
        content = measure(
            stations, seeds, purpose, out, made, bars, rows=rows or ROWS, commit=commit(), machine=describe()
        )
    for title, table in ablation_tables(content):
        console.print(title, highlight=False)
        show_table(table)
    print(out / TABLES)


@app.command()
def info() -> None:
    """What is built, what is usable here, and why something is not."""
    from vsad.info import info as describe

    print(describe())


@app.command()
def bench(
    batch: Annotated[int, typer.Option(help="Samples at once.")] = 1,
    views: Annotated[int, typer.Option(help="Cameras.")] = 5,
    size: Annotated[int, typer.Option(help="Side of the feature maps.")] = 64,
    channels: Annotated[int, typer.Option(help="Channels of the features.")] = 64,
    heads: Annotated[int, typer.Option(help="Attention heads; they divide the channels.")] = 4,
    window: Annotated[int, typer.Option(help="Side of the attention window, odd.")] = 3,
    neighbors: Annotated[int, typer.Option(help="Views that each view looks into.")] = 2,
    features: Annotated[int | None, typer.Option(help="To match with the bank; all pixels of all views.")] = None,
    prototypes: Annotated[int, typer.Option(help="In the bank.")] = 10_000,
    k: Annotated[int, typer.Option(help="Nearest prototypes of each feature.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is a GPU.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which no further library is begun.")] = 90,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
) -> None:
    """Time the operators on your machine and shapes beside every library that is installed: who wins, by how much."""
    from vsad.bench.shapes import Shapes
    from vsad.files import check_writable
    from vsad.machine import gpus

    if json is not None:
        check_writable(json, "file")
    device = device or ("cuda" if gpus() else "cpu")
    shapes = Shapes(
        batch=batch, views=views, size=size, channels=channels, heads=heads, window=window, neighbors=neighbors,
        features=features, prototypes=prototypes, k=k, dtype=dtype, device=device,
    )  # fmt: skip

    from vsad.bench import here  # torch takes a second to import
    from vsad.bench.results import save

    with Bars() as bars:
        cases, results = here.measure(shapes, limit, bars)
    here.show(cases, results, Console())
    if json is not None:
        save(results, json)
        print(json)
