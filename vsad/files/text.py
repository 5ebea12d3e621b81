"""Text and JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsad.files.atomic import write_bytes
from vsad.files.words import check_regular, in_words

# Bytes of a file of text that nobody writes by hand in full, yet that memory holds many times.
MAX_BYTES = 64 << 20
# Lists and objects in each other: code that looks through them calls itself for each.
MAX_DEPTH = 100
# Half of what UTF-16 writes a character in: no text by itself, though JSON can spell it.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text.

    Raises:
        ValueError: it holds half a character, as the name of a file does that is written in another encoding.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        wrong = text[max(0, error.start - 20) : error.end + 20]
        raise ValueError(
            f"{path}: must hold text that UTF-8 can write, got {wrong!r}; rename what is named so"
        ) from None
    return write_bytes(path, data)


def append_line(path: str | Path, text: str) -> None:
    """Append a line of UTF-8 text to a file in one go; missing folders are made."""
    path = Path(path)
    with in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode("utf-8", "surrogateescape") + b"\n")


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path}: must hold finite numbers, got NaN or infinity ({error})") from None
    return write_text(path, text + "\n")


def read_bytes(path: str | Path, remedy: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is larger than ``max_bytes``.
    """
    path = Path(path)
    with in_words(path, remedy):
        check_regular(path, remedy)
        size = path.stat().st_size
        if size > max_bytes:
            raise ValueError(
                f"{path}: must be at most {max_bytes:,} bytes, got {size:,}; is this another file? {remedy}"
            )
        return path.read_bytes()


def read_text(path: str | Path, remedy: str, max_bytes: int = MAX_BYTES) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not UTF-8, or larger than ``max_bytes``.
    """
    data = read_bytes(path, remedy, max_bytes)
    encoding = json.detect_encoding(data[:4])  # by the marks, and the zeros between the bytes of ASCII
    try:
        if not encoding.startswith("utf-8"):
            raise ValueError(encoding.upper())
        return data.decode(encoding)
    except ValueError as error:
        raise ValueError(f"{path}: must be UTF-8 text, got {error}; save it as UTF-8, or {remedy}") from None


def read_json(path: str | Path, remedy: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not JSON, not UTF-8, JSON but no object, or larger than ``max_bytes``; a key stands twice, a
            number is not finite or has more than 64 bits, or lists and objects are nested deeper than 100.
    """
    text = read_text(path, remedy, max_bytes)
    try:
        content = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number, parse_int=_integer
        )
        check_nesting(content)
        if _SURROGATE.search(text.encode()):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: must be JSON, got a lone surrogate (\\ud800 to \\udfff); {remedy}") from None
    except (ValueError, RecursionError) as error:  # JSON that is wrong is among them
        said = _NESTED if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: must be JSON, got {said}; {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a JSON object, got {type(content).__name__}; {remedy}")
    return content


_NESTED = f"lists and objects that are nested deeper than {MAX_DEPTH}"


def check_nesting(content: Any) -> None:
    """Refuse lists and mappings that are nested deeper than 100."""
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError(_NESTED)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {json.dumps(twice)} twice in one object")
    return made


def _constant(text: str) -> float:
    raise ValueError(f"{text}, which JSON cannot hold")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]}, which is out of range")
    return number


def _integer(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= (number := int(text)) < 1 << 64:
        raise ValueError(f"the number {text[:40]}, which has more than 64 bits")
    return number
