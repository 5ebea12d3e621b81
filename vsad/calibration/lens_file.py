"""The lenses' JSON file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsad.calibration.lens import Lens
from vsad.files import read_json, write_json

FORMAT, VERSION = "vsad-lenses", 1
CONVENTION = (
    "OpenCV's pinhole camera: pixels, the center of row i, column j is x=j, y=i; distortion is k1, k2, p1, p2, k3"
)
_REMEDY = "make it with vsad lens"
# How many numbers a field has, where there are several.
_LENGTHS = {"size": 2, "focal": 2, "center": 2, "distortion": 5}
_FIELDS = [field.name for field in dataclasses.fields(Lens)]


def save_lenses(path: str | Path, lenses: Mapping[str, Lens]) -> Path:
    """Write lenses by the names of their views as JSON."""
    head = {"format": FORMAT, "version": VERSION, "convention": CONVENTION}
    return write_json(path, {**head, "lenses": {view: dataclasses.asdict(lens) for view, lens in lenses.items()}})


def load_lenses(path: str | Path) -> dict[str, Lens]:
    """Read what ``save_lenses`` wrote.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no such JSON, or a number is not as a lens has it; the message names it.
    """
    content = read_json(path, _REMEDY)
    lenses = content.get("lenses")
    if content.get("format") != FORMAT or content.get("version") != VERSION or not isinstance(lenses, dict):
        raise ValueError(
            f'{path}: must be an object with "format": "{FORMAT}", "version": {VERSION} and "lenses"; {_REMEDY}'
        )
    return {view: _lens(f"{path}: lens of {view}", fields) for view, fields in lenses.items()}


def _lens(where: str, fields: Any) -> Lens:
    if not isinstance(fields, dict) or sorted(fields) != sorted(_FIELDS):
        raise ValueError(f"{where} must have {', '.join(_FIELDS)} and nothing else, got {fields!r}; {_REMEDY}")
    for name, value in fields.items():
        numbers = value if name in _LENGTHS and isinstance(value, list) else [value]
        if len(numbers) != _LENGTHS.get(name, 1) or not all(type(number) in (int, float) for number in numbers):
            rule = f"{_LENGTHS[name]} numbers" if name in _LENGTHS else "a number"
            raise ValueError(f"{where}: {name} must be {rule}, got {value!r}; {_REMEDY}")
    if not (all(type(side) is int and side > 0 for side in fields["size"]) and min(fields["focal"]) > 0):
        raise ValueError(
            f"{where}: size and focal must be positive, got {fields['size']}, {fields['focal']}; {_REMEDY}"
        )
    values: dict[str, Any] = {name: tuple(value) if name in _LENGTHS else value for name, value in fields.items()}
    return Lens(**values)
