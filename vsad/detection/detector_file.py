"""The file that makes a folder one of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vsad.files import read_json

CONFIG, RIG, FORMAT, VERSION = "detector.json", "rig.json", "vsad-detector", 1
REMEDY = "name a folder that `vsad fit` wrote, or write it anew with it"


def read_detector_config(path: Path) -> dict[str, Any]:
    """The fields of ``detector.json``; refuses those of other programs and versions."""
    content = read_json(path, REMEDY)
    if content.get("format") != FORMAT and not ("format" not in content and "threshold_fit" in content):
        raise ValueError(f'{path}: must be an object with "format": "{FORMAT}", got another program\'s; {REMEDY}')
    version = content.get("version", 0)
    if version != VERSION:
        known = isinstance(version, int) and version > VERSION
        mend = "inspect with that version of vsad, or fit anew" if known else "fit anew"
        kind = "a newer" if known else "an older"
        raise ValueError(f"{path}: must be of version {VERSION}, got a detector of {kind} version; {mend}")
    return {name: value for name, value in content.items() if name not in ("format", "version")}
