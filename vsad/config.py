"""Configurations: dataclasses that are read from and written to YAML or JSON, and that refuse what they do not know."""

from __future__ import annotations

import io
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from vsad.files.text import MAX_DEPTH, read_json, read_text

Config = TypeVar("Config")
REMEDY = "write one with `vsad config`, or mend it by hand"
# Bytes of YAML: no configuration is longer, and its reader takes a second for a hundred thousand.
_MAX_BYTES = 1 << 20


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
    return parse_config(kind, read_fields(path, changes), "" if path is None else f"{path}: ")


def read_fields(path: str | Path | None = None, changes: Iterable[str] = ()) -> dict[str, Any]:
    """The nested fields of a file, with changes, as ``read_config`` takes both."""
    content: dict[str, Any] = {} if path is None else _read(Path(path))
    for change in changes:
        _set(content, change)
    return content


def parse_config(kind: type[Config], content: Mapping[str, Any], where: str = "", inside: str = "") -> Config:
    """Make a configuration of nested mappings, as a file holds them.

    Values must be of the fields' own types: a text is no number, nor is ``true``.

    Args:
        kind: a dataclass derived from ``Strict``.
        content: the fields.
        where: what begins every error, such as the file.
        inside: what begins every field's name in an error, such as ``model.``.

    Raises:
        ValueError: a field is unknown, or a value is not what it must be; the message names the field.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        # As JSON, in which a list may stand for a tuple and nothing else for another type.
        return TypeAdapter(kind).validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(where + _said(each, inside) for each in error.errors())) from None


def check_at_least(config: Any, owner: str, least: int, names: Iterable[str]) -> None:
    """Refuse fields of a configuration that are less than ``least``, infinite or NaN; ``owner`` names it in errors."""
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:  # NaN is neither
            finite = " and finite" if isinstance(value, float) else ""
            raise ValueError(f"{owner}: {name} must be at least {least}{finite}, got {value}")


def check_positive(config: Any, owner: str, names: Iterable[str]) -> None:
    """Refuse fields that are zero, negative, infinite or NaN."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{owner}: {name} must be positive and finite, got {getattr(config, name)}")


def is_json(path: str | Path) -> bool:
    """Whether a configuration of this name is JSON, and not YAML."""
    return Path(path).suffix == ".json"


def describe_config(config: Any) -> str:
    """A configuration as YAML, every field under a comment that says what it is, in the words of its docstring."""
    return "\n".join(_described(config)) + "\n"


def field_descriptions(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass, and those of the dataclasses that it derives from, say of every field."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        arguments = (each.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for entry in re.split(r"\n(?= {8}\S)", arguments):
            names, colon, text = entry.strip().partition(": ")
            if colon:
                found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def _described(config: Any, indent: str = "") -> Iterator[str]:
    descriptions, comment = field_descriptions(type(config)), f"{indent}# "
    for each in fields(config):
        value = getattr(config, each.name)
        yield from textwrap.wrap(descriptions[each.name], 110, initial_indent=comment, subsequent_indent=comment)
        if is_dataclass(value):
            yield f"{indent}{each.name}:"
            yield from _described(value, indent + "  ")
            continue
        written = io.StringIO()
        _yaml(inner_on_one_line=bool(value) and isinstance(value, (dict, list, tuple))).dump(
            {each.name: plain(value)}, written
        )
        yield from (indent + line for line in written.getvalue().splitlines())


def _read(path: Path) -> dict[str, Any]:
    if is_json(path):
        return read_json(path, REMEDY)
    try:
        content = _loaded(read_text(path, REMEDY, _MAX_BYTES))
    except _NotYamlError as error:
        raise ValueError(f"{path}: must be YAML, got {error}; {REMEDY}") from None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path}: must hold fields and their values, got {type(content).__name__}; {REMEDY}")
    return content or {}


class _NotYamlError(ValueError):
    """What is wrong with a text that is to be YAML."""


def _loaded(text: str) -> Any:
    """The content of YAML, of the kinds that JSON has.

    An alias is refused: a few lines of them, each of which stands for several of the line before, are a list of
    billions.
    """
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    try:
        for event in _yaml().parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if isinstance(event, AliasEvent):
                line = event.start_mark.line + 1
                raise _NotYamlError(f"the alias *{event.anchor} in line {line}, which must be written out")
            if depth > MAX_DEPTH:
                raise _NotYamlError(f"fields and lists that are nested deeper than {MAX_DEPTH}")
        return _as_json(_yaml().load(text))
    except _NotYamlError:
        raise
    except Exception as error:  # of broken YAML its reader raises what it comes upon, an IndexError too
        raise _NotYamlError(_problem(error)) from None


def _as_json(content: Any) -> Any:
    """The same content; what JSON has no number or key for is refused, other kinds of values become text."""
    if isinstance(content, dict):
        wrong = next((key for key in content if not isinstance(key, str)), None)
        if wrong is not None or None in content:
            raise _NotYamlError(f"the field {wrong!r}, whose name must be text")
        return {key: _as_json(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_as_json(value) for value in content]
    if isinstance(content, int) and not -(1 << 63) <= content < 1 << 64:
        raise _NotYamlError("a number of more than 64 bits")
    return content if content is None or isinstance(content, (str, int, float)) else str(content)


def _yaml(inner_on_one_line: bool = False) -> Any:
    """A reader and writer of YAML 1.2, in which ``no`` and ``on`` are words, and a key may not stand twice."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width, yaml.allow_unicode = None if inner_on_one_line else False, 110, True
    return yaml


def _problem(error: Exception) -> str:
    """What is wrong, and in which line, without advice on the library."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" in line {mark.line + 1}"
    return " ".join(str(getattr(error, "problem", None) or error).split()) + where


def _set(content: dict[str, Any], change: str) -> None:
    """Set the field that ``part.field=value`` names."""
    name, equals, text = change.partition("=")
    *parts, last = name.strip().split(".")
    if not equals or not all([*parts, last]):
        raise ValueError(f"config: a change must be field=value or part.field=value, got {change!r}")
    for part in parts:
        if content.get(part) is None:  # a part without any field in a file
            content[part] = {}
        inner = content[part]
        if not isinstance(inner, dict):
            raise ValueError(f"config: {part} must hold fields to set {name}, got {inner!r}")
        content = inner
    try:
        content[last] = _loaded(text)
    except _NotYamlError:
        content[last] = text


def _said(error: Mapping[str, Any], inside: str) -> str:
    """One error of pydantic's in our words."""
    name = inside + ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return f"config: there is no field {name}; remove it or mend its name"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"config: {name or 'the content'} is wrong, got {error['input']!r}; {error['msg'].lower()}"


def plain(content: Any) -> Any:
    """Nested mappings and sequences as YAML and JSON give them back: lists for tuples."""
    if isinstance(content, dict):
        return {name: plain(value) for name, value in content.items()}
    return [plain(value) for value in content] if isinstance(content, (list, tuple)) else content
