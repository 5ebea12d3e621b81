"""What README and docs tell people to type works.

Blocks of Python run, a page's one after the other in one namespace, in a folder that holds a small station. Commands of
``vsad`` run in the same folder, shortened by a few options (``SHORTER``). Commands that take minutes or a machine of
their own (``make``, ``pip``, what ``LONG`` names), those with a placeholder and those within a line are not run: their
programs, subcommands, options, targets and files must exist. Messages must be what the sources say, and JSON what the
commands write.
"""

import ast
import contextlib
import functools
import glob
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from accelerate.commands.launch import launch_command_parser
from typer.testing import CliRunner

from tests.flat_surfaces import camera, chessboard, photograph
from tests.pages import ROOT, Block, anchors, blocks, holds_placeholder, pages, spans, words
from vsad.cli import app
from vsad.data.images import write_image
from vsad.data.synth import SynthConfig, synthesize
from vsad.ops.common.registry import OPERATORS

VIEWS = {"C1": "left", "C2": "right", "C3": "top"}  # the station of README has three cameras
# Options that make a command short; the last of an option counts.
SHORTER = {
    "synth": ["--train", "4", "--good", "2", "--defects", "5", "--size", "96"],
    "train": ["--steps", "2"],
    "fit": ["--false-alarms", "0.5"],  # of so few samples, so that there are defects to find
    "run": ["--steps", "2"],
}
LONG = ("ablate", "bench", "demo", "watch")  # take minutes, or until they are stopped
# What a page may take for granted where it does not make it: how it is made.
GIVEN = {
    "rig.json": "vsad calibrate station --out rig.json",
    "model": "vsad train station --rig rig.json --out model --steps 2",
    "detector": "vsad fit station --model model --rig rig.json --out detector --false-alarms 0.5",
    "detections": "vsad detect station --detector detector --out detections",
}

NEEDS = {
    "kornia": lambda: importlib.util.find_spec("kornia"),
    "faiss": lambda: importlib.util.find_spec("faiss"),
    "scikit-learn": lambda: importlib.util.find_spec("sklearn"),
    "timm": lambda: importlib.util.find_spec("timm"),
    "a GPU": torch.cuda.is_available,
    "a C++ compiler": lambda: shutil.which("c++"),
}

BLOCKS = {page: blocks(page) for page in pages()}
CODE = [block for found in BLOCKS.values() for block in found if block.language in ("python", "commands")]
SPANS = [(f"{page.relative_to(ROOT)}:{line}", code) for page in BLOCKS for line, code in spans(page)]
COMMANDS = [(block.name, command) for block in CODE for command in block.commands]
# Within a line arguments may be left out; `--help` is what asks for none.
COMMANDS += [(name, [*words(code), "--help"]) for name, code in SPANS if re.match(r"(vsad|accelerate) ", code)]
COMMANDS += [(name, words(code)) for name, code in SPANS if re.match(r"(make|pip|python3?) ", code)]


class Reader:
    """Someone who types a page from the top: runs a block after all that stand before it."""

    def __init__(self, page_blocks: list[Block], folder: Any) -> None:
        self.blocks, self.folder, self.done = page_blocks, folder, 0
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def read(self, wanted: Block) -> None:
        for block in self.blocks[self.done : self.blocks.index(wanted) + 1]:
            self.done += 1
            if not missing(block):
                self.run(block)

    def run(self, block: Block) -> None:
        torch.manual_seed(0)
        if block.language == "python":
            code = "\n" * block.line + block.text  # a traceback shows the page's own line
            exec(compile(code, str(block.page), "exec"), self.names)
            return
        for program, *arguments in block.commands:
            if program == "vsad" and arguments[0] not in LONG and not holds_placeholder(arguments):
                is_last = [program, *arguments] == block.commands[-1]
                vsad(arguments + SHORTER.get(arguments[0], []), block.ends if is_last else 0)


def vsad(arguments: list[str], ends: int = 0) -> None:
    """Run a command here, patterns expanded as a shell does; it must end with that code."""
    words = [word for each in arguments for word in (sorted(glob.glob(each)) or [each])]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == ends, f"vsad {' '.join(arguments)}: {result.output[-2000:]}{result.exception!r}"


def missing(block: Block) -> str | None:
    """Why a block cannot run here, in words."""
    if block.not_run:
        return f"is not run: {block.not_run}"
    return None if block.needs is None or NEEDS[block.needs]() else f"needs {block.needs}, which is not here"


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    """A folder with what pages take for granted: ``station``, ``data``, ``boards`` and what ``GIVEN`` names."""
    folder = tmp_path_factory.mktemp("pages")
    data = folder / "station"
    synthesize(data, SynthConfig(train=4, test_good=2, test_defect=5, size=96))
    for picture in data.rglob("*.png"):
        if picture.stem in VIEWS:
            picture.rename(picture.with_stem(VIEWS[picture.stem]))
        else:
            picture.unlink()
    shutil.copytree(data, folder / "data")
    surface = chessboard()
    for view, H_view_from_surface in {"left": camera(35, 20), "right": camera(30, 310), "top": camera(0, 0)}.items():
        write_image(folder / "boards" / f"{view}.png", photograph(surface, H_view_from_surface))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in GIVEN.values():
            vsad(words(command)[1:])
    return folder


@pytest.fixture(scope="module")
def readers(station, tmp_path_factory):
    """The reader of every page, in a folder of its own that lacks what the page makes."""
    found = {}
    for page, page_blocks in BLOCKS.items():
        folder = tmp_path_factory.mktemp(page.stem) / "work"
        shutil.copytree(station, folder)
        commands = [command for block in page_blocks for command in block.commands]
        makes_station = any(command[:3] == ["vsad", "synth", "station"] for command in commands)
        made = {after for command in commands for word, after in zip(command, command[1:]) if word == "--out"}
        for name in made.intersection(GIVEN) | ({"station"} if makes_station else set()):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        found[page] = Reader([block for block in page_blocks if block in CODE], folder)
    return found


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in CODE])
def test_a_block_runs_after_those_before_it(block, readers, monkeypatch):
    if reason := missing(block):
        pytest.skip(reason)
    reader = readers[block.page]
    monkeypatch.chdir(reader.folder)
    reader.read(block)


@pytest.mark.parametrize(
    "command", [pytest.param(command, id=" ".join([where, *command])) for where, command in COMMANDS]
)
def test_a_command_exists_with_all_its_options(command):
    check(command)


def check(command: list[str]) -> None:
    """Raises where a command's program has no such subcommand, option, target or file."""
    program, *arguments = command
    if command[:3] == ["accelerate", "launch", "-m"]:
        program, arguments = "python", command[2:]
    if arguments[:2] == ["-m", "vsad.cli"]:
        program, arguments = "vsad", arguments[2:]
    checks = {"vsad": check_vsad, "make": check_make, "pip": check_pip, "python": check_python, "python3": check_python}
    checks[program](arguments)


def check_vsad(arguments: list[str]) -> None:
    arguments = [argument for argument in arguments if argument != "..."]
    commands = typer.main.get_command(app).commands
    if holds_placeholder(arguments[:1]):  # `vsad STEP --help`
        return
    name, *rest = arguments
    if name in ("--version", "--help"):
        return
    assert name in commands, f"vsad has the commands {', '.join(commands)}; got {name}"
    with contextlib.suppress(typer.Exit):  # of --help
        commands[name].make_context(name, rest)


def check_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        variable, is_variable, _ = argument.partition("=")
        wanted = rf"\$\({variable}\W" if is_variable else rf"^{variable}:"
        assert re.search(wanted, makefile, re.M), f"the Makefile has no {argument}"


def check_pip(arguments: list[str]) -> None:
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    for extra in re.findall(r"(?:\.|vsad)\[(\w+)\]", " ".join(arguments)):
        assert re.search(rf"^{extra} = \[", extras, re.M), f"pyproject.toml has no extra {extra}"


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        target, arguments = ["-m", arguments[1]], arguments[2:]
        assert importlib.util.find_spec(target[1]), f"there is no module {target[1]}"
    else:
        target, arguments = [str(ROOT / arguments[0])], arguments[1:]
        assert os.path.isfile(target[0]), f"there is no file {target[0]}"
    options = [argument for argument in arguments if argument.startswith("--")]
    if options:
        assert [option for option in options if option not in help_of(*target)] == []


@functools.cache
def help_of(*target: str) -> str:
    command = [sys.executable, *target, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_every_block_says_what_it_holds():
    """Code in a block of no language, or of a misspelled one, would not be run."""
    known = {"python", "commands", "mermaid", "json", "yaml", "text", "message"}
    found = [(block.name, block.language) for page_blocks in BLOCKS.values() for block in page_blocks]
    assert [each for each in found if each[1] not in known] == []


MESSAGES = [
    (f"{block.page.name}: {line}", line)
    for found in BLOCKS.values()
    for block in found
    if block.language == "message"
    for line in block.text.splitlines()
]


@functools.cache
def what_the_sources_say() -> str:
    """Every string of the sources, one after the other, with a NUL where a value goes."""
    said = []
    for file in (ROOT / "vsad").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    return "\0".join(said)


def fixed_parts(message: str) -> list[str]:
    """What the program says itself, clause by clause, without values, ``<...>``, and what is left out, ``...``."""
    said = re.sub("^(error|warning): ", "", message)
    clauses = re.split(r"<[^<>]*>|\.\.\.|, got |\)?[:;,.](?: |$)|\) | \(", said)
    return [clause.strip(" ,") for clause in clauses if re.search(r"\w", clause)]


@pytest.mark.parametrize("message", [pytest.param(message, id=name) for name, message in MESSAGES])
def test_a_message_is_what_the_program_says(message):
    parts = fixed_parts(message)
    assert sum(len(part.split()) for part in parts) >= 4
    assert [part for part in parts if part not in what_the_sources_say()] == []


def test_a_message_that_nobody_says_is_found():
    right = "error: <a.png> must be a complete image, got <...>; copy or export the file again, as PNG for example"
    said = what_the_sources_say()
    assert all(part in said for part in fixed_parts(right))
    assert [part for part in fixed_parts(right.replace("complete", "whole")) if part not in said] == [
        "must be a whole image"
    ]


JSON = [block for found in BLOCKS.values() for block in found if block.language == "json"]


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in JSON])
def test_json_has_the_fields_of_what_the_commands_wrote(block, readers, monkeypatch):
    reader = readers[block.page]
    monkeypatch.chdir(reader.folder)
    if reader.blocks:
        reader.read(reader.blocks[-1])
    shown = json.loads(block.text)
    written = [json.loads(file.read_text()) for file in Path().rglob("*.json") if file.name != "synth.json"]
    alike = [
        each for each in written if each.get("format") == shown.get("format") and each.keys() >= {next(iter(shown))}
    ]
    assert alike, "no such file was written"
    assert differences(shown, fullest(alike)) == []


def fullest(written: list[Any]) -> Any:
    return max(written, key=lambda each: len(json.dumps(each)))


def differences(shown: Any, written: Any, where: str = "") -> list[str]:
    """Where fields differ; of lists the first entry that is shown counts; what is shown empty may hold anything."""
    if isinstance(shown, dict) and isinstance(written, dict) and shown:
        wrong = [f"{where}.{name}" for name in shown.keys() ^ written.keys()]
        return wrong + [
            each for name in shown.keys() & written.keys()
            for each in differences(shown[name], written[name], f"{where}.{name}")
        ]  # fmt: skip
    if isinstance(shown, list) and isinstance(written, list):
        return differences(shown[0], fullest(written), f"{where}[0]") if shown and written else []
    return [] if isinstance(shown, dict) == isinstance(written, dict) else [where]


def test_options_within_lines_exist():
    commands = typer.main.get_command(app).commands.values()
    known = {name for command in commands for each in command.params for name in (*each.opts, *each.secondary_opts)}
    for folder in ("vsad/bench", "bench", "tests"):  # those of pytest and of programs with argparse
        for file in (ROOT / folder).rglob("*.py"):
            known |= set(re.findall(r'"(--[a-z-]+)"', file.read_text(encoding="utf-8")))
    known |= {"--help", "--benchmark-json", "--benchmark-compare"}
    known |= set(launch_command_parser()._option_string_actions)
    unknown = [f"{name} {code}" for name, code in SPANS if re.match(r"--\w", code) and code.split()[0] not in known]
    assert unknown == []


def test_what_pages_link_to_exists():
    broken = []
    for page in BLOCKS:
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            file = page.parent / target if target else page
            if "://" not in target and (not file.exists() or (anchor and anchor not in anchors(file))):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def test_every_operator_has_a_page_with_blocks_that_run():
    folder = ROOT / "docs" / "operators"
    for name in OPERATORS:
        assert sum(block.language == "python" for block in blocks(folder / f"{name}.md")) >= 4, name
    assert {page.stem for page in folder.glob("*.md")} == set(OPERATORS)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("vsad fit station --sizes 256", "--sizes"),
        ("vsad fitt station", "vsad has the commands"),
        ("vsad fit station --seed big", "integer"),
        ("vsad fit --help --sizes 256", "--sizes"),
        ("make tests", "tests"),
        ("make test PARTS=x", "PARTS"),
        ("pip install '.[gpu]'", "gpu"),
        ("python -m vsad.bench.gpus.check", "vsad.bench"),
        ("python -m vsad.bench.gpu.check --lists", "--lists"),
        ("python examples/none.py", "none.py"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command, reason):
    with pytest.raises(Exception, match=re.escape(reason)):
        check(words(command))


def test_blocks_are_found_as_people_write_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    found = blocks(page)
    assert [(block.line, block.language, block.needs, block.not_run, block.ends) for block in found] == [
        (3, "commands", None, None, 0),
        (10, "python", "kornia", None, 0),
        (16, "commands", None, "needs a camera", 0),
        (23, "python", None, None, 4),
    ]
    assert found[0].commands == [["vsad", "run", "station", "--out", "out"], ["make", "demo"]]
    assert found[2].commands == [["vsad", "watch", "PLACEHOLDER", "--out", "log"]]
    assert list(spans(page)) == [(1, "vsad --help"), (26, "code over two lines")]


PAGE = """Text with `vsad --help`.

    vsad run station --out out    # why
    A=1 make demo

    out = sum of what is no command
    station/train/good

<!-- needs: kornia -->
```python
import kornia
```

<!-- not run: needs a camera -->

```sh
$ vsad watch <your folder> \\
    --out log
```

Text.
<!-- ends: 4 -->
```python
pass
```
The `code over
two lines` goes on.
"""
