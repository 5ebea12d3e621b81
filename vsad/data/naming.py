"""The order of names that people number: cam1, cam2, ..., cam10."""

from __future__ import annotations

import re


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Give what names are sorted by, so that numbers in them count as numbers.

    Example:
        >>> sorted(["cam10", "cam2", "cam1"], key=natural_key)
        ['cam1', 'cam2', 'cam10']
    """
    parts = re.split("([0-9]+)", name)  # text and numbers in turn, so that only like is compared with like
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
