"""Commands that learn a station's good products."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsad.cli.app import app
from vsad.cli.options import (
    READ,
    Autoencoder,
    Category,
    Changes,
    Data,
    Depth,
    Device,
    FalseAlarms,
    File,
    Format,
    Fresh,
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
from vsad.progress import SILENT
from vsad.terminal import Bars, say, show_skipped, show_warnings


@app.command()
def config(
    out: Annotated[Path | None, typer.Option(help="File to write; without it the terminal.")] = None,
    preset: Preset = None,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Write the configuration that every command reads with --config, every field with what it is.

    Where the name of the file ends in .json it is JSON, which has no comments.
    """
    from dataclasses import asdict

    from vsad.config import describe_config, is_json
    from vsad.files import check_writable, write_json, write_text

    if out is not None:
        check_writable(out, "file")
    made = chosen(file, changes, preset=preset)
    model = "".join(f"#   {line}\n" for line in describe_config(made.valdm).splitlines())
    text = (
        describe_config(made) + f"# The fields that may stand under model, with the values that they have now:\n{model}"
    )
    if out is None:
        print(text, end="")
    elif is_json(out):
        print(write_json(out, asdict(made)))
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
    """Train VALDM and FRM on normal images."""
    made = chosen(
        file, changes, reads=("preset", "model", *READ, "registration", "train", "vae", "seed", "device"),
        size=size, preset=preset, steps=steps, registration=registration, seed=seed, device=device, format=format,
        depth=depth, pixel_limit=pixel_limit, skip_bad=skip_bad or None, vae={} if vae else None,
    )  # fmt: skip

    from vsad.data import choose_category
    from vsad.geometry.rig_file import read_rig_file
    from vsad.models.hub import check_base

    check_out(out, data, command="train")
    check_base(made.valdm)
    choose_category(data, category, format=made.format, split="train")
    read_rig_file(rig)

    from vsad.geometry import Rig  # torch and diffusers take seconds to import
    from vsad.models import new_model
    from vsad.pipeline import cameras_for, rig_warnings, train_station
    from vsad.training import check_trainable, is_main_process

    calibrated = Rig.load(rig)
    cameras, expected = cameras_for(calibrated, made.sides if made.size else None)
    model = new_model(made.valdm, made.seed)
    check_trainable(model, made.train)
    reading = made.reading
    with Bars() as bars:
        progress = bars if is_main_process() else SILENT
        dataset = reading.normal(data, category=category, cameras=expected, progress=progress)
        if is_main_process():
            show_warnings([*rig_warnings(calibrated, dataset)])
        why = train_station(model, dataset, cameras, made, out, progress, fresh=fresh)
    if not is_main_process():
        return
    show_skipped(reading.skipped)
    say(f"registration {why}")
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
    """Fill the memory with normal images, choose the levels and the threshold."""
    made = chosen(
        file, changes, reads=(*READ, "registration", "network", "detector", "seed", "device"),
        size=size, memory=memory, false_alarms=false_alarms, registration=registration, network=network,
        seed=seed, device=device, format=format, depth=depth, pixel_limit=pixel_limit, skip_bad=skip_bad or None,
    )  # fmt: skip

    from vsad.data import choose_category
    from vsad.geometry.rig_file import read_rig_file
    from vsad.models.folder import check_model_folder

    check_out(out, data, used=model, command="fit")
    choose_category(data, category, format=made.format, split="train")
    check_model_folder(model)
    read_rig_file(rig)

    from vsad.detection import warn_of_extrapolation  # torch and diffusers take seconds to import
    from vsad.geometry import Rig
    from vsad.models import VALDM
    from vsad.pipeline import cameras_for, fit_station, read_cameras, size_warnings
    from vsad.training import check_alone

    check_alone("fit")
    cameras, expected = cameras_for(Rig.load(rig), made.sides if made.size else None, read_cameras(model))
    trained, reading = VALDM.from_pretrained(model).to(made.chosen_device), made.reading
    with Bars() as bars:
        dataset = reading.normal(data, category=category, cameras=expected, progress=bars)
        show_warnings([*size_warnings(dataset)])
        fitted, why = fit_station(trained, dataset, cameras, made, model, out, bars, fresh=fresh)
    show_skipped(reading.skipped)
    say(f"registration {why}")
    warn_of_extrapolation(fitted.fitted)
    print(out)
