"""A part of a model or pipeline by its library's own loading: what is not whole is refused in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from torch import nn

from vsad.files import first_line, read_json
from vsad.models.folder import REMEDY
from vsad.models.limits import check_finite, check_size

OTHER_BASE = "name another base, or fetch it anew"
_MARKED = 16


def read_part(
    kind: Any, source: str, part: str, files: dict[str, Any], remedy: str = REMEDY, *, spare: bool = False
) -> Any:
    """One part by the loading of diffusers or transformers, safetensors only, in float32, each weight where it belongs.

    Args:
        kind: of the part, a class of theirs.
        source: folder or hub id.
        part: folder in it.
        files: ``variant``, ``revision`` and ``local_files_only``, as both take them.
        remedy: ends every error.
        spare: whether files may hold weights that this kind has no place for.

    Raises:
        FileNotFoundError: there is no such part, or it has no weights.
        ValueError: it is broken or not complete.
    """
    here = Path(source) / part
    content = read_json(here / "config.json", remedy) if Path(source).is_dir() else None
    try:
        if content is not None:
            check_size(kind, here, content)
        with _quiet():
            model, found = kind.from_pretrained(
                source,
                subfolder=part,
                torch_dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                low_cpu_mem_usage=False,
                **files,
            )
        check_finite(model)
    except OSError as error:
        broken = "no file named" not in str(error)
        state = "missing" if not broken else "broken" if content is not None else "not to be had of the hub"
        said = f"{here}: its weights are {state}, {first_line(error)}; {_instead(source, part) or remedy}"
        raise (ValueError if broken else FileNotFoundError)(said) from None
    except Exception as error:  # whatever a library makes of a value of a wrong kind
        said = f"{here}: config and weights must belong together, got {first_line(error)}; {remedy}"
        raise ValueError(said) from None
    # What is missing they draw at random or make up.
    kinds = ("missing_keys", "mismatched_keys", *(() if spare else ("unexpected_keys",)))
    wrong = [str(name) for kind in kinds for name in found[kind]]
    if wrong:
        raise ValueError(
            f"{here}: config and weights must belong together, got {len(wrong)} weights that do not "
            f"fit, {wrong[0]} first; {remedy}"
        )
    # Loaded tensors lie in the file's pages, where they are not aligned: slower, and other last digits than when saved.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def mark_of(model: nn.Module) -> str:
    """A hash by which weights are known again: of the first values of every tensor, since there may be gigabytes."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        first = tensor.detach().flatten()[:_MARKED].to("cpu", torch.float32)
        hashed.update(f"{name} {tuple(tensor.shape)} {first.tolist()}".encode())
    return hashed.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers from listing the weights that do not fit: that is said in one line."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _instead(source: str, part: str) -> str:
    """What to do about weights that are not found, by the other weights that lie in a folder; "" for none."""
    names = sorted(path.name for path in (Path(source) / part).glob("*") if path.is_file())
    for name in names:
        variant = name.split(".")[-2] if name.endswith(".safetensors") and name.count(".") > 1 else ""
        if variant:
            return f"give variant={variant!r}, as {name} has it"
    if any(name.endswith((".bin", ".ckpt", ".pt")) for name in names):
        return "its weights are pickled, which is not read; write them anew with safe_serialization=True"
    return ""
