"""Configurations: dataclasses that are read from and written to YAML or JSON, and that refuse what they do not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from vsad.files import read_json, write_json, write_text

Config = TypeVar("Config")
REMEDY = "write one with `vsad config`, or mend it by hand"


class Strict:
    """A dataclass whose fields are checked when it is read, and whose other fields are refused by name."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def read_config(kind: type[Config], path: str | Path | None = None, changes: Iterable[str] = ()) -> Config:
    """Make a configuration of a file's fields and of changes to them.

    Args:
        kind: a dataclass derived from ``Strict``.
        path: a YAML file, or a JSON file where its name ends in ``.json``; fields that it leaves out keep their
            defaults. None for no file.
        changes: ``field=value`` or ``part.field=value``, the value as YAML has it; the last one counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, a field is unknown, or a value is not what it must be; the message names
            the field.

    Example:
        >>> from vsad.training import TrainConfig
        >>> read_config(TrainConfig, changes=["steps=7"]).steps
        7
    """
    content: dict[str, Any] = {} if path is None else _read(Path(path))
    for change in changes:
        _set(content, change)
    return parse_config(kind, content, "" if path is None else f"{path}: ")


def parse_config(kind: type[Config], content: Mapping[str, Any], where: str = "") -> Config:
    """Make a configuration of nested mappings, as a file holds them; ``where`` begins every error."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise ValueError("; ".join(where + _said(each) for each in error.errors())) from None


def write_config(config: Any, path: str | Path) -> Path:
    """Write every field of a configuration as YAML, or as JSON where the file's name ends in ``.json``."""
    import yaml

    path = Path(path)
    content = _plain(asdict(config))
    if path.suffix == ".json":
        return write_json(path, content)
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_json(path, REMEDY)
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {REMEDY}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be YAML, got {' '.join(str(error).split())}; {REMEDY}") from None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path}: must hold fields and their values, got {type(content).__name__}; {REMEDY}")
    return content or {}


def _set(content: dict[str, Any], change: str) -> None:
    """Set the field that ``part.field=value`` names."""
    import yaml

    name, equals, text = change.partition("=")
    *parts, last = name.strip().split(".")
    if not equals or not all([*parts, last]):
        raise ValueError(f"config: a change must be field=value or part.field=value, got {change!r}")
    for part in parts:
        inner = content.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"config: {part} must hold fields to set {name}, got {inner!r}")
        content = inner
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        content[last] = text


def _said(error: Mapping[str, Any]) -> str:
    """One error of pydantic's in our words."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return f"config: there is no field {name}; remove it or mend its name"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"config: {name or 'the content'} is wrong, got {error['input']!r}; {error['msg'].lower()}"


def _plain(content: Any) -> Any:
    """The same with lists for tuples, which YAML has not."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, (list, tuple)) else content
