"""The ``vsad`` command."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vsad.options import (
    Category,
    Changes,
    Data,
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
from vsad.terminal import Bars, ListCommand, console, show_false_alarms, show_table, show_warnings

app = typer.Typer(
    help="Homography-guided multi-view anomaly detection: calibrate a station, learn its good products, find defects.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data set, the detector and the report.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps of the training.")] = 40,
    samples: Annotated[int, typer.Option(help="Normal samples; half as many good and defective ones are tested.")] = 40,
) -> None:
    """The main job, end to end: photographs, five cameras, calibration, training, inspection, report."""
    from vsad.data.synth import TRUTH, SynthConfig, synthesize
    from vsad.pipeline import REPORT, RunConfig, metrics_table, run
    from vsad.training import TrainConfig

    data = out / "circuit_board"  # a data set of one category is named by its folder
    if (data / TRUTH).is_file():  # an earlier demo's, never a user's own folder
        import shutil

        shutil.rmtree(data)
    with Bars() as bars:
        half = max(1, samples // 2)
        # Lamps that flare in every view anew: single views cannot be trusted, and what others confirm can.
        hard = {"glare": 0.5}
        synth = SynthConfig(train=samples, test_good=half, test_defect=max(5, half), seed=seed, nuisances=hard)
        synthesize(data, synth, progress=bars)
        config = RunConfig(train=TrainConfig(steps=steps, seed=seed), ablations=True, seed=seed)
        results = run(data, out, config, bars)
    for outcome in results.values():
        show_table(metrics_table(outcome.rows))
        show_false_alarms(*outcome.false_alarms)
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


@app.command()
def config(
    out: Annotated[Path | None, typer.Option(help="File to write; without it the terminal.")] = None,
    preset: Preset = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Write the configuration that every command reads with --config, every field with what it is."""
    from vsad.config import describe_config
    from vsad.files import write_text

    made = chosen(file, changes, preset=preset)
    model = "".join(f"#   {line}\n" for line in describe_config(made.valdm).splitlines())
    text = (
        describe_config(made) + f"# The fields that may stand under model, with the values that they have now:\n{model}"
    )
    if out is None:
        print(text, end="")
    else:
        print(write_text(out, text))


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
    from vsad.pipeline import normal_samples

    made = chosen(file, changes, size=size, graph=graph, seed=seed)
    dataset = normal_samples(data, category, made.size)
    with Bars() as bars:
        rig, report = estimate(dataset, graph=made.graph, max_samples=samples, seed=made.seed, progress=bars)
    rig.save(out)
    console.print(str(report), highlight=False)
    print(out)


@app.command()
def train(
    data: Data,
    rig: Annotated[Path, typer.Option(help="Rig made by `vsad calibrate`.")] = Path("rig.json"),
    out: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("model"),
    category: Category = None,
    size: Size = None,
    preset: Preset = None,
    steps: Steps = None,
    registration: Registered = None,
    seed: Seed = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Train VALDM and FRM on normal images."""
    from vsad.models import new_model
    from vsad.pipeline import canonical_images, normal_samples, register_station
    from vsad.registration import canonical_rig
    from vsad.training import learn_latents
    from vsad.training import train as fit_weights

    made = chosen(file, changes, size=size, preset=preset, steps=steps, registration=registration, seed=seed)
    cameras = _rig(rig, made.size)
    dataset = normal_samples(data, category, made.size)
    model = new_model(made.valdm, made.seed)
    with Bars() as bars:
        places, why = register_station(dataset, cameras, made.registration, bars)
        latents = learn_latents(model, canonical_images(dataset, places, [], "encode", bars))
        fit_weights(model, latents, canonical_rig(cameras, places), made.train, bars)
    model.save_pretrained(out)
    console.print(f"registration {why}", highlight=False)
    print(out)


@app.command()
def fit(
    data: Data,
    model: Annotated[Path, typer.Option(help="Folder that `vsad train` wrote.")] = Path("model"),
    rig: Annotated[Path, typer.Option(help="Rig made by `vsad calibrate`.")] = Path("rig.json"),
    out: Annotated[Path, typer.Option(help="Folder for the detector.")] = Path("detector"),
    category: Category = None,
    size: Size = None,
    memory: Memory = None,
    false_alarms: FalseAlarms = None,
    registration: Registered = None,
    network: Network = None,
    seed: Seed = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Fill the memory with normal images, choose the levels and the threshold."""
    from vsad.detection import load_network, warn_of_extrapolation
    from vsad.models import VALDM
    from vsad.pipeline import Split, fit_detector, normal_samples, register_station
    from vsad.training import encode

    made = chosen(
        file, changes, size=size, memory=memory, false_alarms=false_alarms, registration=registration, network=network,
        seed=seed,
    )  # fmt: skip
    cameras, trained = _rig(rig, made.size), VALDM.from_pretrained(model)
    frozen = None if made.network is None else load_network(made.network)
    dataset = normal_samples(data, category, made.size)
    with Bars() as bars:
        places, why = register_station(dataset, cameras, made.registration, bars)
        split = Split.to_fit(
            dataset, places, trained, cameras, bars, lambda images: encode(trained, images), frozen, made.seed
        )
        fitted = fit_detector(trained, cameras, split, places, made.detector, bars, frozen)
        fitted.save_pretrained(out)
    console.print(f"registration {why}", highlight=False)
    warn_of_extrapolation(fitted.fitted)
    print(out)


@app.command()
def detect(
    data: Data,
    detector: Annotated[Path, typer.Option(help="Folder that `vsad fit` wrote.")] = Path("detector"),
    out: Annotated[Path, typer.Option(help="Folder for scores, verdicts and maps.")] = Path("detections"),
    category: Category = None,
    size: Size = None,
) -> None:
    """Inspect the test samples."""
    from vsad.data import open_dataset
    from vsad.detection import Detector
    from vsad.pipeline import detect_all

    inspector = Detector.from_pretrained(detector)
    dataset = open_dataset(data, "test", category=category, size=size)
    with Bars() as bars:
        result = detect_all(inspector, dataset, bars)
    result.save(out)
    table = Table("sample", "score", "verdict")
    for sample, found in zip(dataset.samples, result.found):
        score = float(found.sample_score)
        table.add_row(sample.id, f"{score:.2f}", "DEFECT" if score >= result.threshold else "ok")
    console.print(table)
    show_warnings([*result.warnings()])
    show_false_alarms(*result.false_alarms())
    print(out)


@app.command(name="eval")
def evaluate(
    data: Data,
    detections: Annotated[Path, typer.Option(help="Folder that `vsad detect` wrote.")] = Path("detections"),
    rig: Annotated[Path, typer.Option(help="Rig, for the report.")] = Path("rig.json"),
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and report.html.")] = Path("."),
    category: Category = None,
    size: Size = None,
) -> None:
    """Measure detections against the truth; write metrics.json and report.html."""
    from vsad.data import open_dataset
    from vsad.pipeline import METRICS, REPORT, Detections, Truth, metrics_table, report_detections, write_metrics

    dataset = open_dataset(data, "test", category=category, size=size)
    found = Detections.load(detections, dataset)
    rows = [("VSAD", found.evaluate(Truth.of(dataset)))]
    write_metrics(out / METRICS, {dataset.category: rows[0][1]})
    report_detections(out / REPORT, found, rows, _rig(rig, size), {"data": str(data)})
    show_table(metrics_table(rows))
    print(out / REPORT)


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
    ablations: Annotated[bool, typer.Option(help="Also measure the model without alignment and a plain bank.")] = False,
    network: Network = None,
    seed: Seed = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """All steps on a data set: calibrate, train, fit, detect, evaluate, report."""
    from vsad.pipeline import metrics_table
    from vsad.pipeline import run as run_all

    made = chosen(
        file, changes, size=size, graph=graph, registration=registration, preset=preset, steps=steps, memory=memory,
        false_alarms=false_alarms, ablations=ablations or None, network=network, seed=seed,
    )  # fmt: skip
    with Bars() as bars:
        results = run_all(data, out, made, bars)
    for category, outcome in results.items():
        console.print(category)
        show_table(metrics_table(outcome.rows))
        show_warnings(outcome.warnings)
        show_false_alarms(*outcome.false_alarms)
    print(out)


@app.command(cls=ListCommand)
def ablate(
    out: Annotated[Path, typer.Argument(help="Folder; what it holds of an earlier call is not measured again.")],
    stations: Annotated[list[str] | None, typer.Option(help="Some of the hard stations; without it all.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="Seeds; without it 1000 1001 1002.")] = None,
    purpose: Annotated[str, typer.Option(help="report (seeds 1000 to 1099) or development (0 to 99).")] = "report",
    preset: Preset = None,
    steps: Steps = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """What each part of the method is worth: hard stations with all parts, and without one at a time."""
    from vsad.bench.machine import commit, describe
    from vsad.data.synth import HARD_STATIONS
    from vsad.pipeline import TABLES, ablation_tables
    from vsad.pipeline import ablate as measure

    stations, seeds = stations or list(HARD_STATIONS), seeds or [1000, 1001, 1002]
    made = chosen(file, changes, preset=preset, steps=steps)
    with Bars() as bars:
        content = measure(stations, seeds, purpose, out, made, bars, commit=commit(), machine=describe())
    for title, rows in ablation_tables(content):
        console.print(title, highlight=False)
        show_table(rows)
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
    import torch

    from vsad.bench import here
    from vsad.bench.results import save

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    shapes = here.Shapes(
        batch=batch, views=views, size=size, channels=channels, heads=heads, window=window, neighbors=neighbors,
        features=features, prototypes=prototypes, k=k, dtype=dtype, device=device,
    )  # fmt: skip
    with Bars() as bars:
        cases, results = here.measure(shapes, limit, bars)
    here.show(cases, results, Console())
    if json is not None:
        save(results, json)
        print(json)


def _rig(path: Path, size: int | None) -> Any:
    from vsad.geometry import Rig

    rig = Rig.load(path)
    return rig if size is None else rig.scaled((size, size))


def main() -> None:
    """Run the command; an error that users can mend is one line, without a traceback."""
    warnings.showwarning = lambda message, *_, **__: console.print(f"warning: {message}", highlight=False, markup=False)
    try:
        app()
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
