"""The command that finds how a station's cameras see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsad.cli.app import app
from vsad.cli.options import (
    Category,
    Changes,
    Data,
    File,
    Graph,
    Seed,
    Size,
    chosen,
)
from vsad.terminal import Bars, console


@app.command()
def calibrate(
    data: Data,
    out: Annotated[Path, typer.Option(help="The rig's JSON file.")] = Path("rig.json"),
    category: Category = None,
    size: Size = None,
    graph: Graph = None,
    samples: Annotated[int, typer.Option(help="Normal samples to pool matches over.")] = 8,
    seed: Seed = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Estimate the homographies between the cameras from normal images."""
    from vsad.calibration import calibrate as estimate

    made = chosen(file, changes, reads=("size", "graph", "seed"), size=size, graph=graph, seed=seed)
    dataset = made.reading.normal(data, category=category, size=made.size)
    with Bars() as bars:
        rig, report = estimate(dataset, graph=made.graph, max_samples=samples, seed=made.seed, progress=bars)
    rig.save(out)
    console.print(str(report), highlight=False)
    print(out)
