"""The documentation as tests read it: blocks of Python, blocks of commands, and code within lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SHELL = ("sh", "bash", "console")
# Programs whose commands are checked. An indented block of anything else is a formula, a layout or a picture.
PROGRAMS = ("vsad", "make", "python", "python3", "pip", "accelerate")

_FENCE = re.compile(r"```(\w*)\s*$")
_MARK = re.compile(r"<!-- (needs|not run|ends): (.+) -->\s*$")
_COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)}) ")
_SPAN = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    """Code that stands by itself.

    A comment before a block says what it needs, which skips it where that is missing, why it is not run, or with what
    other code than 0 its last command ends::

        <!-- needs: kornia -->
        <!-- not run: needs a camera -->
        <!-- ends: 4 -->
    """

    page: Path
    line: int  # of its first line, from 1
    language: str  # "python", "commands", or what the page says
    text: str
    needs: str | None = None
    not_run: str | None = None
    ends: int = 0

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command, without comments, prompts and variables of the environment; none of Python."""
        if self.language != "commands":
            return []
        joined = self.text.replace("\\\n", " ")
        return [words(line) for line in joined.splitlines() if line.strip()]


def pages() -> list[Path]:
    """Every page that tells people what to type."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
    return found + sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, and its indented lines that are commands, in order."""
    found: list[Block] = []
    marks: dict[str, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    i = 0
    while i < len(lines):
        line, start = lines[i], i
        i += 1
        if mark := _MARK.match(line):
            marks[mark[1]] = mark[2]
            continue
        if fence := _FENCE.match(line):
            end = lines.index("```", i)
            language, text, i = fence[1], lines[i:end], end + 1
        elif line.startswith("    "):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            language, text = (
                "commands",
                [each[4:] for each in lines[start:i] if _COMMAND.match(without_blanks(each[4:]))],
            )
        else:
            marks = {} if line.strip() else marks
            continue
        language = "commands" if language in SHELL else language
        if text:
            said = marks.get("needs"), marks.get("not run"), int(marks.get("ends", 0))
            found.append(Block(page, start + 1, language, "\n".join(text), *said))
        marks = {}
    return found


def spans(page: Path) -> Iterator[tuple[int, str]]:
    """Code within lines, with the number of its line; a span may go on in the next line."""
    prose = re.sub(
        r"```.*?```", lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"), flags=re.S
    )
    for found in _SPAN.finditer(prose):
        yield prose[: found.start()].count("\n") + 1, " ".join(found[1].split())


def anchors(page: Path) -> set[str]:
    """What links may name within a page: its headings, as GitHub makes anchors of them."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words(command: str) -> list[str]:
    """A command line's words: ``PIP_EXTRA_INDEX_URL=<index> make demo  # why`` is ``make demo``."""
    parts = shlex.split(without_blanks(command.removeprefix("$ ")), comments=True)
    while parts and re.match(r"[A-Z_]+=", parts[0]):
        parts.pop(0)
    return parts


def without_blanks(command: str) -> str:
    """``<what you have>`` as one word."""
    return re.sub(r"<[^<>]*>", "PLACEHOLDER", command)


def holds_placeholder(arguments: list[str]) -> bool:
    """Whether a reader must put something else in place of a word: FOLDER, STEP, MODULE:FUNCTION or dots."""
    return any(re.search(r"\b[A-Z]{2,}\b", word) or word == "..." for word in arguments)
