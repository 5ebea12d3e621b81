"""Which categories of a data set a run is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vsad.data import choose_category, list_categories
from vsad.data.sample import SPLITS
from vsad.pipeline.config import RunConfig


def choose_categories(root: Path, wanted: Sequence[str], config: RunConfig) -> tuple[list[str], list[str]]:
    """The categories that a run is of, and all that the data set has images of.

    Args:
        root: the data set.
        wanted: some of its categories; none for all.
        config: of the run.

    Raises:
        FileNotFoundError: there is no such folder, or it has no images.
        ValueError: it is no data set, a category is not there, files do not lie as the named format has them, or
            the model is of other categories.
    """
    there = list_categories(root, format=config.format)
    chosen = [*dict.fromkeys(wanted)] or there
    unknown = [name for name in chosen if name not in there]
    if unknown:
        raise ValueError(f"run: category must be one of {', '.join(there)}, as {root} has, got {', '.join(unknown)}")
    if config.valdm.conditioning != "none":
        unknown = sorted(set(chosen) - set(config.valdm.categories))
        if unknown:
            raise ValueError(
                f"run: model.categories must name every category of {root}, got {list(config.valdm.categories)}; "
                f"add {', '.join(unknown)}"
            )
    for name in chosen if config.format is not None else ():
        for split in SPLITS:
            choose_category(root, name, format=config.format, split=split)
    return chosen, there
