"""The arrows of docs/architecture.md: imports and includes point down, and no operator knows another."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vsad
import vsad.ops
from vsad.ops.common import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(vsad.__file__).resolve().parent
OPERATORS = sorted(folder.name for folder in (PACKAGE / "ops").iterdir() if (folder / "api.py").is_file())
LAUNCHERS = {row.name for operator in registry.OPERATORS.values() for row in operator.backends}
# The rooms of vsad/ from the ground up. A room imports itself and rooms of lower ranks, never one of its own rank.
RANKS = (
    ("kernels", "_cpu", "_cuda"),
    ("lazy", "machine"),
    ("ops",),
    ("checks", "files", "progress", "scratch"),
    ("config",),
    ("geometry",),
    ("calibration", "data", "models"),
    ("registration",),
    ("detection", "metrics", "training"),
    ("report",),
    ("pipeline",),
    ("bench", "info", "terminal"),
    ("cli",),
)
# The files of an operator's folder, likewise: launchers know the call, the public function knows the registration.
OPERATOR_RANKS = (
    ("call",),
    ("arguments", "gradients"),
    ("reference", *LAUNCHERS),
    ("registration",),
    ("packed",),
    ("api",),
)


def files_of(room):
    """The sources of a room, which is a folder (perhaps behind a symlink) or a module."""
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def module_of(path):
    """``("vsad", "ops", "common", "checks")`` of a source; a package is named as its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def all_imports_of(path):
    """Every module that a source imports anywhere, inside functions too, and every ``vsad.<name>`` in it, as tuples."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *(node.module.split(".") if node.module else ())]
            yield from ((*base, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vsad":
            yield ("vsad", node.attr)


def imports_of(path):
    """Those of vsad. The folders at the top go by their names within the package."""
    for name in all_imports_of(path):
        assert name[0] not in ("kernels", "bench", "tests"), (
            f"{path} imports {name[0]}: not there where vsad is installed"
        )
        if name[0] == "vsad" and len(name) > 1:
            yield name


def rank_of(name, ranks, path):
    found = [i for i, names in enumerate(ranks) if name in names]
    assert found, f"{path} has no rank: add it to the ranks at the top of {Path(__file__).name}"
    return found[0]


def below(name, ranks, path):
    return {other for names in ranks[: rank_of(name, ranks, path)] for other in names}


@pytest.mark.parametrize("room", [room for rooms in RANKS for room in rooms if not room.startswith("_")])
def test_imports_point_down(room):
    allowed = below(room, RANKS, room) | {room, "__file__", "__version__"}
    upward = {f"{'.'.join(module_of(path))} imports {'.'.join(name)}"
              for path in files_of(room) for name in imports_of(path) if name[1] not in allowed}  # fmt: skip
    assert not upward


def test_the_package_itself_imports_the_operators_only_when_they_are_asked_for():
    code = (
        "import sys, vsad; assert 'torch' not in sys.modules; vsad.ops.homography_warp; assert 'torch' in sys.modules; "
        "assert not hasattr(vsad, 'operators')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {name[:2] for name in all_imports_of(PACKAGE / "__init__.py") if name[0] == "vsad"} == {("vsad", "ops")}


def test_imports_are_statements():
    """A module that is named by a string escapes go-to-definition and the tests here."""
    called = {"import_module", "__import__"}
    # Backends are loaded where they are used, a user names a network, and a package its own modules.
    allowed = [PACKAGE / name for name in ("ops/common/backends.py", "detection/network.py", "lazy.py")]
    for room in (room for rooms in RANKS for room in rooms if not room.startswith("_") and room != "bench"):
        for path in files_of(room):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    assert name not in called or path in allowed, (
                        f"{path}:{node.lineno} calls {name}; write an import statement, inside a function if it is slow"
                    )


def test_every_room_has_a_rank():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix in (".py", ".pyi")}
    assert rooms - {"__init__", "__pycache__"} == {room for rooms in RANKS for room in rooms}


def part_of(name):
    """The part of an operator's folder that a file belongs to: triton may stand in several files, triton_*.py."""
    return name.split("_")[0] if name.startswith("triton") else name


@pytest.mark.parametrize("operator", ["common", *OPERATORS])
def test_an_operator_knows_its_folder_and_what_all_share(operator):
    for path in files_of(f"ops/{operator}"):
        part = part_of(path.stem)
        for _, room, *inside in imports_of(path):
            where = f"{path} imports {'.'.join([room, *inside])}"
            if room in ("_cpu", "_cuda"):
                assert part == room[1:] or operator == "common", where
            if room == "kernels":
                assert part == "triton", where
            if room in ("kernels", "ops"):
                assert inside[:1] in ([operator], ["common"]), where
            if room == "ops" and inside[0] == operator != "common" and part != "__init__":
                other = part_of(inside[1])
                if part == "registration" and other in LAUNCHERS:
                    continue  # imported when a backend is first used
                assert other in below(part, OPERATOR_RANKS, path) | {part}, where


@pytest.mark.parametrize("room", ["common", *OPERATORS])
def test_kernels_know_triton_and_what_all_share(room):
    for path in files_of(f"kernels/{room}"):
        for root, *_ in all_imports_of(path):
            assert root in {"triton", "vsad", *sys.stdlib_module_names}, f"{path} imports {root}"
        for _, other, *inside in imports_of(path):
            assert other == "kernels", f"{path} imports {other}"
            assert inside[:1] in ([room], ["common"]), f"{path} imports {inside}"


def test_includes_point_down():
    """csrc/<op>/{cpu,cuda} stand on csrc/<op>, csrc/{cpu,cuda} and csrc/common; a device never includes the other.

    A device's module.cpp stands above the operators, and includes what binds them.

    Ours stand in quotes, others' in angle brackets; torch's are not among them.
    """
    csrc = ROOT / "csrc"
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu"):
            continue
        place = path.relative_to(csrc).parts[:-1]
        for written in re.findall(
            r"^[ \t]*#[ \t]*include[ \t]*(.*?)[ \t]*(?://.*)?$", path.read_text(encoding="utf-8"), re.M
        ):
            where, name = f"{path} includes {written}", written[1:-1]
            if written[0] + written[-1] == "<>":
                assert not (csrc / name).exists(), where
                assert name.split("/")[0] not in ("torch", "ATen", "c10"), where
                continue
            assert written[0] + written[-1] == '""', where
            target = Path(name).parts[:-1]
            assert (csrc / name).is_file(), where
            if place == ("common",):
                allowed = [("common",)]
            elif place[0] in OPERATORS:
                allowed = [("common",), place[:1], place, place[1:]]
            else:
                allowed = [("common",), place]
            if path.name == "module.cpp" and Path(name).name == "bind.h":
                allowed += [(operator, *place) for operator in OPERATORS]
            assert target in allowed, where


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_has_one_folder_name(operator):
    for folder in (PACKAGE / "ops" / operator, ROOT / "csrc" / operator, ROOT / "kernels" / operator):
        assert folder.is_dir()
    assert (ROOT / "bench" / "gpu" / "variants" / f"{operator}.py").is_file()
    for launcher in ("cpu", "cuda", "triton"):
        assert (PACKAGE / "ops" / operator / f"{launcher}.py").is_file()
    for device in ("cpu", "cuda"):
        assert (ROOT / "csrc" / operator / device / "bind.h").is_file()


def test_a_file_has_400_lines_at_most():
    files = [path for room in ("bench", "csrc", "kernels", "tests", "vsad") for path in (ROOT / room).rglob("*.*")]
    sources = [path for path in files if path.suffix in (".py", ".pyi", ".h", ".cpp", ".cu")]
    assert not [f"{path}: {n}" for path in sources if (n := len(path.read_text("utf-8").splitlines())) > 400]


def test_importing_the_operators_loads_no_model():
    heavy = "{'diffusers', 'transformers', 'accelerate', 'cv2', 'triton', 'vsad.models', 'rich'}"
    code = f"import sys, vsad.ops; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    ("header", "enumeration", "module", "names"),
    [
        ("common/scalar.h", "Scalar", "common/tensors.py", "DTYPES"),
        ("homography_warp/arguments.h", "Mode", "homography_warp/call.py", "MODES"),
        ("homography_warp/arguments.h", "Padding", "homography_warp/call.py", "PADDINGS"),
        ("prototype_distance/arguments.h", "Metric", "prototype_distance/call.py", "METRICS"),
        ("prototype_distance/cuda/bank.h", "Screen", "prototype_distance/cuda.py", "SCREENS"),
    ],
)
def test_codes_in_cpp_are_the_positions_of_names_in_python(header, enumeration, module, names):
    declared = re.search(rf"enum class {enumeration} : int {{(.*?)}};", (ROOT / "csrc" / header).read_text(), re.DOTALL)
    if module.endswith("cuda.py"):
        pytest.importorskip("vsad._cuda")
    written = getattr(importlib.import_module("vsad.ops." + module[:-3].replace("/", ".")), names)
    assert [name.strip() for name in declared[1].split(",")] == [str(name).removeprefix("torch.") for name in written]
