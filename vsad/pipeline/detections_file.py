"""The file that makes a folder one of detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vsad.files import read_json

FILE, FORMAT, VERSION = "detections.json", "vsad-detections", 1
REMEDY = "name a folder that `vsad detect` wrote, or inspect anew"


def read_detections(folder: str | Path) -> dict[str, Any]:
    """What ``detections.json`` of a finished folder holds.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is another program's, or of another version.
    """
    path = Path(folder) / FILE
    content = read_json(path, f"{REMEDY}; one that was interrupted goes on where it stopped")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(f'{path}: must be an object with "format": "{FORMAT}" and "version": {VERSION}; {REMEDY}')
    return content
