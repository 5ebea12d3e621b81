"""The rig's JSON file: made to be read and edited by a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsad.files import read_json

if TYPE_CHECKING:
    from vsad.geometry.checks import Size
    from vsad.geometry.rig_pair import RigPair

FORMAT, VERSION = "vsad-rig", 1
CONVENTION = "homography maps target pixels (x, y) to source pixels; the center of row i, column j is x=j, y=i"
_RIG_KEYS = {"format", "version", "convention", "comment", "views", "height", "width", "pairs"}
_PAIR_KEYS = {"target", "source", "homography", "inliers", "error_px", "comment"}


def read_rig_file(path: str | Path) -> dict[str, Any]:
    """Read a rig's JSON object, whose keys are those of a rig; their values are not looked at.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no rig's; the message names the file and the key.
    """
    content = read_json(path, remedy="make one with `vsad calibrate`, or mend it by hand")
    try:
        _check(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return content


def parse_rig(content: dict[str, Any]) -> tuple[tuple[str, ...], Size, tuple[RigPair, ...]]:
    """Return the views, the size and the pairs of a rig's JSON object, not yet checked by ``Rig`` itself.

    Raises:
        ValueError: a key is missing, unknown, or of another format or version; the message names it.
    """
    from vsad.geometry.rig_pair import RigPair

    _check(content)
    pairs = tuple(
        RigPair(**{key: value for key, value in entry.items() if key != "comment"}) for entry in content["pairs"]
    )
    return content["views"], (content["height"], content["width"]), pairs


def pair_name(target: str, source: str) -> str:
    """How messages name a pair."""
    return f"pair {target} <- {source}"


def _check(content: dict[str, Any]) -> None:
    if content.get("format") != FORMAT:
        raise ValueError(f'rig: must be an object with "format": "{FORMAT}"; is this another file?')
    if content.get("version") != VERSION:
        raise ValueError(f"rig: version must be {VERSION}, got {content.get('version')!r}; calibrate anew")
    _check_keys("rig", content, required=("views", "height", "width", "pairs"), allowed=_RIG_KEYS)
    entries = content["pairs"]
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise ValueError("rig: pairs must be a list of objects; write [] for none")
    for index, entry in enumerate(entries):
        name = pair_name(entry.get("target", f"pairs[{index}]"), entry.get("source", "?"))
        _check_keys(f"rig: {name}", entry, required=("target", "source", "homography"), allowed=_PAIR_KEYS)
        _check_types(f"rig: {name}", entry)


def format_rig(views: Sequence[str], size: Size, pairs: Sequence[RigPair]) -> str:
    """Write a rig as JSON: a matrix row on a line, every number exact."""
    head = {
        "format": FORMAT, "version": VERSION, "convention": CONVENTION, "views": list(views),
        "height": size[0], "width": size[1],
    }  # fmt: skip
    lines = [f'  "{key}": {json.dumps(value, ensure_ascii=False)},' for key, value in head.items()]
    entries = ",\n".join(_pair_text(pair) for pair in pairs)
    return "\n".join(["{", *lines, f'  "pairs": [\n{entries}\n  ]', "}", ""])


def _check_keys(what: str, content: dict[str, Any], required: Sequence[str], allowed: set[str]) -> None:
    missing = [key for key in required if key not in content]
    unknown = [key for key in content if key not in allowed]
    if missing:
        raise ValueError(f"{what} must have {', '.join(missing)}; add it")
    if unknown:
        raise ValueError(f"{what} must not have {', '.join(unknown)}; remove it, notes may go in a comment")


def _check_types(what: str, entry: dict[str, Any]) -> None:
    """Refuse a pair whose views are no names, or whose matrix is not of numbers."""
    for key in ("target", "source"):
        if not isinstance(entry[key], str):
            raise ValueError(f"{what} {key} must be the name of a view, got {entry[key]!r}; mend it")
    rows = entry["homography"]
    numbers = isinstance(rows, list) and all(
        isinstance(row, list) and all(type(number) in (int, float) for number in row) for row in rows
    )
    if not numbers:  # true would be taken for 1
        raise ValueError(f"{what} homography must be 3 rows of 3 numbers, got {rows!r}; fit it again")
    for key in ("inliers", "error_px"):
        if isinstance(entry.get(key), bool):
            raise ValueError(f"{what} {key} must be a number >= 0, got {entry[key]!r}; mend or delete it")


def _pair_text(pair: RigPair) -> str:
    rows = ",\n".join(f"        {json.dumps(row)}" for row in pair.homography.tolist())
    fields = [f'"target": {json.dumps(pair.target)}, "source": {json.dumps(pair.source)}']
    fields.append(f'"homography": [\n{rows}\n      ]')
    measured = {"inliers": pair.inliers, "error_px": pair.error_px}
    fields += [", ".join(f'"{key}": {json.dumps(value)}' for key, value in measured.items() if value is not None)]
    body = ",\n      ".join(field for field in fields if field)
    return f"    {{\n      {body}\n    }}"
