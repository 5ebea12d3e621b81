"""Commands to try vsad with: the demonstration and synthetic stations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsad.cli.app import app
from vsad.terminal import Bars, show_counts, show_table


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data set, the detector and the report.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps of the training.")] = 40,
    samples: Annotated[int, typer.Option(help="Normal samples; half as many good and defective ones are tested.")] = 40,
) -> None:
    """The main job, end to end: photographs, five cameras, calibration, training, inspection, report."""
    from vsad.data.synth import TRUTH, SynthConfig, synthesize
    from vsad.files import check_writable
    from vsad.pipeline.config import RunConfig
    from vsad.pipeline.names import REPORT
    from vsad.training.config import TrainConfig

    half = max(1, samples // 2)
    # Lamps that flare in every view anew: single views cannot be trusted, and what others confirm can.
    hard = {"glare": 0.5}
    made = SynthConfig(train=samples, test_good=half, test_defect=max(5, half), seed=seed, nuisances=hard)
    config = RunConfig(train=TrainConfig(steps=steps, seed=seed), ablations=True, seed=seed)
    check_writable(out)

    from vsad.pipeline import metrics_table, run  # torch and diffusers take seconds to import

    data = out / "circuit_board"  # a data set of one category is named by its folder
    if (data / TRUTH).is_file():  # an earlier demo's, never a user's own folder
        import shutil

        shutil.rmtree(data)
    with Bars() as bars:
        synthesize(data, made, progress=bars)
        results = run(data, out, config, bars)
    for outcome in results.values():
        show_table(metrics_table(outcome.rows))
        show_counts(outcome.counts)
    print(out / REPORT)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="New or empty folder.")],
    category: Annotated[
        list[str] | None, typer.Option(help="Packaged photograph, an image file or skimage:NAME; may be repeated.")
    ] = None,
    train: Annotated[int, typer.Option(help="Normal samples to learn from.")] = 40,
    good: Annotated[int, typer.Option(help="Normal samples to test.")] = 20,
    defects: Annotated[int, typer.Option(help="Defective samples to test, the five kinds in turn.")] = 20,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 256,
    format: Annotated[str, typer.Option(help="folder or real-iad.")] = "folder",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    nuisance: Annotated[
        list[str] | None,
        typer.Option(
            help="Make every sample harder: glare, pose, surface, relief, exposure, dust or camera; "
            "NAME or NAME:STRENGTH, 1 by default; may be repeated."
        ),
    ] = None,
) -> None:
    """Make a five-camera inspection data set from real photographs."""
    from vsad.data.synth import SynthConfig, parse_nuisances, synthesize

    categories = tuple(category or ["circuit_board"])
    nuisances = parse_nuisances(nuisance or [])
    config = SynthConfig(categories, train, good, defects, size, seed, format, nuisances)
    with Bars() as bars:
        synthesize(out, config, progress=bars)
    print(out)
