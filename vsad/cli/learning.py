"""Commands that learn a station's good products."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsad.cli.app import app
from vsad.cli.options import (
    Autoencoder,
    Category,
    Changes,
    Data,
    Device,
    FalseAlarms,
    File,
    Memory,
    Network,
    Preset,
    Registered,
    Seed,
    Size,
    Steps,
    chosen,
    load_rig,
)
from vsad.terminal import Bars, console


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
    from vsad.training import Station, check_trainable, is_main_process, learn_encodings, train_vae
    from vsad.training import train as fit_weights

    made = chosen(
        file, changes, reads=("preset", "model", "size", "registration", "train", "vae", "seed", "device"),
        size=size, preset=preset, steps=steps, registration=registration, seed=seed, device=device,
        vae={} if vae else None,
    )  # fmt: skip
    cameras = load_rig(rig, made.size)
    dataset = normal_samples(data, category, made.size)
    product = made.valdm.index_of(dataset.category)
    model = new_model(made.valdm, made.seed).to(made.chosen_device)
    check_trainable(model, made.train)
    with Bars() as bars:
        places, why = register_station(dataset, cameras, made.registration, bars)
        if made.vae is not None:
            train_vae(model, Images(dataset), made.vae, bars)
        latents = learn_encodings(model, canonical_images(dataset, places, [], "encode", bars, model.divisor))
        station = Station(latents, canonical_rig(cameras, places, model.divisor), product)
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

    made = chosen(
        file, changes, reads=("size", "registration", "network", "detector", "seed", "device"),
        size=size, memory=memory, false_alarms=false_alarms, registration=registration, network=network,
        seed=seed, device=device,
    )  # fmt: skip
    cameras, trained = load_rig(rig, made.size), VALDM.from_pretrained(model).to(made.chosen_device)
    frozen = made.frozen_network()
    dataset = normal_samples(data, category, made.size)
    with Bars() as bars:
        places, why = register_station(dataset, cameras, made.registration, bars)
        split = Split.to_fit(dataset, places, trained, cameras, bars, network=frozen, seed=made.seed)
        fitted = fit_detector(trained, cameras, split, places, made.detector, bars, frozen, dataset.category)
        fitted.save_pretrained(out)
    console.print(f"registration {why}", highlight=False)
    warn_of_extrapolation(fitted.fitted)
    print(out)
