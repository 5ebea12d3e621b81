"""What a model's folder tells of the cameras that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vsad.data import Cameras
from vsad.files import read_json, write_json

if TYPE_CHECKING:
    from vsad.geometry import Rig

FILE, FORMAT, VERSION = "station.json", "vsad-station", 1
_REMEDY = "name a folder that `vsad train` wrote, or train anew"


def cameras_for(rig: Rig, size: tuple[int, int] | None = None, trained: Cameras | None = None) -> tuple[Rig, Cameras]:
    """A rig at the size that is worked at, and what data sets must give.

    Args:
        rig: as it was calibrated.
        size: that was asked for; None takes the trained model's, or else the rig's.
        trained: the cameras that a model was trained on; None for a model that is to be trained.

    Raises:
        ValueError: the rig has other views than the model was trained on, or another size is asked for.
    """
    if trained is not None and set(trained.views) != set(rig.views):
        raise ValueError(
            f"rig: views must be those of the model, {', '.join(trained.views)}, got {', '.join(rig.views)}; name the "
            "rig that it was trained with, or train anew"
        )
    if trained is not None and size is not None and tuple(size) != tuple(trained.size):
        raise ValueError(
            f"size must be {trained.size[0]} x {trained.size[1]}, at which the model was trained, got "
            f"{size[0]} x {size[1]}; leave it out, or train anew"
        )
    size = size or (trained.size if trained is not None else rig.size)
    return rig.scaled(size), Cameras(rig.views, size, {}) if trained is None else replace(trained, views=rig.views)


def write_cameras(folder: Path, cameras: Cameras) -> None:
    """Note beside a model on what cameras it was trained."""
    write_json(folder / FILE, {"format": FORMAT, "version": VERSION, **cameras.content})


def read_cameras(folder: Path) -> Cameras | None:
    """What ``write_cameras`` wrote; None for a model that was saved by a program of somebody's own.

    Raises:
        ValueError: the file is broken.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = read_json(path, _REMEDY)
    try:
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"version {content['version']} of {content['format']}")
        return Cameras.parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: must be the cameras of a model, got {error}; {_REMEDY}") from None
