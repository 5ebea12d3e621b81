"""The options that several commands share, and the configuration that they make together with a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsad.terminal import be_quiet

if TYPE_CHECKING:
    from vsad.pipeline.config import RunConfig

# The fields of the configuration that say how images are read.
READ = ("size", "format", "depth", "pixel_limit", "skip_bad")
# Where an option stands in the configuration, if not by its own name.
_FIELDS = {"steps": "train.steps", "memory": "detector.memory", "false_alarms": "detector.false_alarms"}

Data = Annotated[
    Path,
    typer.Argument(help="Data set: {train,test}/{good,<defect>}/<sample>/<view>.png, Real-IAD, MANTA, or as MVTec AD."),
]
Category = Annotated[str | None, typer.Option(help="Product, where the data set holds several.")]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HEIGHTxWIDTH",
        help="Resize images, such as 256 or 256x448; by default to what was learned, or not at all.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(help="Layout of the data: folder, real-iad, manta or mvtec.", show_default="told from the files"),
]
Depth = Annotated[
    int | None,
    typer.Option(
        min=1, max=31, help="Significant bits of image files of more than 8.", show_default="the range each camera uses"
    ),
]
PixelLimit = Annotated[
    int | None, typer.Option(min=1, help="Refuse images of more pixels.", show_default="250 million")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out samples that cannot be read, and list them, instead of stopping.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="First delete what an earlier run has made in the output folder.")]


def _use_threads(count: int | None) -> int | None:
    if count is not None:
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(count)
        else:  # read when torch is imported, which takes a second
            os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    return count


Threads = Annotated[
    int | None,
    typer.Option(min=1, callback=_use_threads, help="Threads of the CPU to compute with.", show_default="all cores"),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=be_quiet, help="Show no progress and no tables: results, warnings, errors."),
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same result.", show_default="0")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps of the training.", show_default="100")]
Graph = Annotated[
    str | None, typer.Option(help="Which views are neighbors: overlap, ring or star.", show_default="overlap")
]

Memory = Annotated[
    str | None,
    typer.Option(help="aligned: products of one pattern; prototypes: of no fixed pattern.", show_default="aligned"),
]
Registered = Annotated[
    str | None,
    typer.Option(help="Bring samples into one pose: auto, where it helps, on or off.", show_default="auto"),
]
Preset = Annotated[
    str | None, typer.Option(help="Model: tiny, small, base, or sd on pretrained weights.", show_default="tiny")
]
Network = Annotated[
    str | None,
    typer.Option(help="Frozen networks whose features may count too, joined by +: contrast (light counts for nothing), "
    "timm:MODEL, MODULE:FUNCTION of your own; or none.", show_default="contrast"),
]  # fmt: skip
FalseAlarms = Annotated[
    float | None, typer.Option(help="Share of good products that may be called defective.", show_default="0.05")
]
Device = Annotated[
    str | None, typer.Option(help="Device of the model: cpu, cuda, cuda:1.", show_default="a GPU where there is one")
]
Autoencoder = Annotated[
    bool, typer.Option("--vae", help="Train the autoencoder too, so that reconstructions can be looked at.")
]
File = Annotated[
    Path | None, typer.Option("--config", help="YAML or JSON file of `vsad config`; options count more than it does.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE of the configuration, such as train.lr=1e-3; counts most."),
]


def chosen(
    file: Path | None, changes: list[str] | None, *, reads: Sequence[str] | None = None, **options: Any
) -> RunConfig:
    """The configuration of a file, of a command's options by their names, and of changes.

    A file may serve several commands; a change is of one, which must read what it changes.

    Args:
        file: YAML or JSON, or None.
        changes: each FIELD=VALUE.
        reads: the outermost fields that the command reads; None for all.
        options: values by their names; None where they were not given.

    Raises:
        ValueError: a change is of a field that the command does not read, or the configuration is wrong.
    """
    if options.get("size") is not None:
        options["size"] = parse_size(options["size"])
    from vsad.pipeline.config import RunConfig, run_config

    for change in changes or ():
        name = change.partition("=")[0].strip()
        field = name.partition(".")[0]
        if reads is not None and field not in reads and field in {each.name for each in fields(RunConfig)}:
            raise ValueError(
                f"--set: {name} must be a field that this command reads, of {', '.join(reads)}; leave it out"
            )
    return run_config(file, changes or (), {_FIELDS.get(name, name): value for name, value in options.items()})


def check_out(out: Path, *inputs: Path, used: Path | None = None, command: str | None = None) -> None:
    """Refuse a folder that cannot be written, or that is read: what was written would be taken for images next time.

    Args:
        out: that is to be written.
        inputs: folders of images.
        used: the model or detector that is worked with.
        command: that writes a run; None for one that does not.

    Raises:
        OSError: ``out`` cannot be written.
        ValueError: it is, or lies in, a folder of images that is read, or is that of the model or detector, or another
            command made it.
    """
    from vsad.files import check_command, check_writable

    for each in inputs:
        if each.is_dir() and out.resolve().is_relative_to(each.resolve()):
            raise ValueError(f"--out: must not lie in the folder that is read, got {out} in {each}; name another")
    if used is not None and out.resolve() == used.resolve():
        raise ValueError(f"--out: must not be the folder that is read, got {out}; name another")
    check_writable(out)
    if command is not None:
        check_command(out, command)


def check_detector(folder: Path, device: str | None) -> None:
    """Refuse a folder that holds no detector, and a device that is not usable.

    Raises:
        FileNotFoundError: a file of the detector is missing.
        ValueError: it is another program's or of another version, or there is no such device.
    """
    from vsad.detection.detector_file import CONFIG, RIG, read_detector_config
    from vsad.geometry.rig_file import read_rig_file
    from vsad.pipeline.config import check_device

    check_device(device)
    read_detector_config(folder / CONFIG)
    read_rig_file(folder / RIG)


def check_inspected(data: Sequence[Path], category: str | None, format: str | None) -> None:
    """Refuse a data set or new samples that are not there.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: it is no image, or the data set has not that category.
    """
    from vsad.data import choose_category, is_data_set
    from vsad.data.new_samples import expand

    if len(data) == 1 and (format is not None or is_data_set(data[0])):
        choose_category(data[0], category, format=format, split="test")
        return
    for each in data:
        expand(each)


def parse_size(text: str) -> int | list[int]:
    """The size that ``256`` or ``256x448`` names: a side, or height and width.

    Raises:
        ValueError: it names none.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 7 for side in sides):
        raise ValueError(f"--size: must be a side such as 256, or HEIGHTxWIDTH such as 256x448, got {text!r}")
    return int(sides[0]) if len(sides) == 1 else [int(side) for side in sides]
