"""Where the files of a pretrained base come from: a folder, the hub of Hugging Face, or what was fetched of it before.

The hub is asked once, and what it does not answer is said at once: its own functions try for half a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vsad.models.config import VALDMConfig

# Seconds in which the hub must answer.
_TIMEOUT = 5.0
# What every base has.
_FILE = "unet/config.json"
_REMEDY = "name a folder that holds it, --set model.base=FOLDER, or fetch it where there is a network"


Place = Literal["folder", "hub", "fetched"]


class UnreachableError(OSError):
    """The hub does not answer, and what it was asked for was not fetched before."""


def check_base(config: VALDMConfig, remedy: str = _REMEDY) -> None:
    """Refuse a configuration whose base cannot be had, before anything that takes long.

    Args:
        config: of a model.
        remedy: ends the error: where the base is named.

    Raises:
        FileNotFoundError: the base is no folder, and neither the hub nor what was fetched of it before has it.
    """
    if config.base is not None:
        fetch_options(config.base, config.revision, remedy)


def fetch_options(base: str, revision: str | None, remedy: str = _REMEDY) -> dict[str, Any]:
    """The arguments by which diffusers and transformers find the files of a base.

    Raises:
        FileNotFoundError: the base is no folder, and neither the hub nor what was fetched of it before has it.
    """
    if Path(base).is_dir():
        return options("folder", revision)
    try:
        place = find(base, _FILE, revision)
    except UnreachableError as error:
        raise FileNotFoundError(f"model: the base {base} is no folder, and {error}; {remedy}") from None
    if place is None:
        raise FileNotFoundError(
            f"model: the base {base} must be a folder or a repository of the hub that holds {_FILE}, got none; mend "
            f"its name or revision, or {remedy}"
        )
    return options(place, revision)


def options(place: Place | None, revision: str | None) -> dict[str, Any]:
    """The arguments by which diffusers and transformers find files that are in a place."""
    return {"revision": revision} | ({"local_files_only": True} if place == "fetched" else {})


def find(source: str, file: str, revision: str | None) -> Place | None:
    """Where a file of a folder or of a repository of the hub is; None where it is not.

    Raises:
        UnreachableError: the hub does not answer, and the file was not fetched before.
    """
    if Path(source).is_dir() or Path(source).is_absolute():
        return "folder" if (Path(source) / file).is_file() else None
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        get_hf_file_metadata(hf_hub_url(source, file, revision=revision), timeout=_TIMEOUT)
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError):
        return None
    except Exception as error:  # whatever the client makes of a network that is not there, version by version
        if isinstance(try_to_load_from_cache(source, file, revision=revision), str):
            return "fetched"
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UnreachableError(f"the hub of Hugging Face does not answer ({said[0]})") from None
    return "hub"
