"""Commands for a station, from its pictures to verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vsad.cli.app import app
from vsad.cli.options import (
    Autoencoder,
    Category,
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

    made = chosen(file, changes, reads=("size", "graph", "seed"), size=size, graph=graph, seed=seed)
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
    vae: Autoencoder = False,
    registration: Registered = None,
    seed: Seed = None,
    device: Device = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Train VALDM and FRM on normal images."""
    from vsad.models import new_model
    from vsad.pipeline import Images, canonical_images, normal_samples, register_station
    from vsad.registration import canonical_rig
    from vsad.training import Station, check_trainable, is_main_process, learn_latents, train_vae
    from vsad.training import train as fit_weights

    made = chosen(
        file, changes, reads=("preset", "model", "size", "registration", "train", "vae", "seed", "device"),
        size=size, preset=preset, steps=steps, registration=registration, seed=seed, device=device,
        vae={} if vae else None,
    )  # fmt: skip
    cameras = _rig(rig, made.size)
    dataset = normal_samples(data, category, made.size)
    product = made.valdm.index_of(dataset.category)
    model = new_model(made.valdm, made.seed).to(made.chosen_device)
    check_trainable(model, made.train)
    with Bars() as bars:
        places, why = register_station(dataset, cameras, made.registration, bars)
        if made.vae is not None:
            train_vae(model, Images(dataset), made.vae, bars)
        latents = learn_latents(model, canonical_images(dataset, places, [], "encode", bars))
        station = Station(latents, canonical_rig(cameras, places), product)
        fit_weights(model, station, made.train, bars, folder=out / "training")
    if not is_main_process():
        return
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
    device: Device = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Fill the memory with normal images, choose the levels and the threshold."""
    from vsad.detection import warn_of_extrapolation
    from vsad.models import VALDM
    from vsad.pipeline import Split, fit_detector, normal_samples, register_station
    from vsad.training import encode

    made = chosen(
        file, changes, reads=("size", "registration", "network", "detector", "seed", "device"),
        size=size, memory=memory, false_alarms=false_alarms, registration=registration, network=network,
        seed=seed, device=device,
    )  # fmt: skip
    cameras, trained = _rig(rig, made.size), VALDM.from_pretrained(model).to(made.chosen_device)
    frozen = made.frozen_network()
    dataset = normal_samples(data, category, made.size)
    with Bars() as bars:
        places, why = register_station(dataset, cameras, made.registration, bars)
        split = Split.to_fit(
            dataset, places, trained, cameras, bars, lambda images: encode(trained, images), frozen, made.seed
        )
        fitted = fit_detector(trained, cameras, split, places, made.detector, bars, frozen, dataset.category)
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
    device: Device = None,
) -> None:
    """Inspect the test samples."""
    from vsad.data import open_dataset
    from vsad.detection import Detector
    from vsad.pipeline import choose_device, detect_all

    inspector = Detector.from_pretrained(detector).to(choose_device(device))
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


def _rig(path: Path, size: int | None) -> Any:
    from vsad.geometry import Rig

    rig = Rig.load(path)
    return rig if size is None else rig.scaled((size, size))
