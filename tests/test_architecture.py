"""The arrows of docs/architecture.md: imports and includes point down, and no operator knows another."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vsad

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(vsad.__file__).resolve().parent
OPERATORS = sorted(folder.name for folder in (PACKAGE / "ops").iterdir() if (folder / "api.py").is_file())
# The rooms of vsad/ from the ground up. A room imports itself and rooms of lower ranks, never one of its own rank.
RANKS = (
    ("kernels", "_cpu", "_cuda"),
    ("ops",),
    ("files", "progress"),
    ("geometry",),
    ("calibration", "data", "models"),
    ("detection", "evaluation", "training"),
    ("report",),
    ("pipeline",),
    ("bench", "info"),
    ("cli",),
)
# The files of an operator's folder, likewise: launchers know the call, the public function knows the registration.
OPERATOR_RANKS = (
    ("call",),
    ("arguments", "gradients"),
    ("reference", "cpu", "cuda", "triton"),
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


def imports_of(path):
    """The modules of vsad that a source imports anywhere, inside functions too, as tuples of names."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *(node.module.split(".") if node.module else ())]
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from (tuple(name) for name in names if name[0] == "vsad" and len(name) > 1)


def rank_of(room, ranks):
    (rank,) = [i for i, rooms in enumerate(ranks) if room in rooms] or [None]
    return rank


@pytest.mark.parametrize("room", [room for rooms in RANKS for room in rooms if not room.startswith("_")])
def test_imports_point_down(room):
    below = {name for rooms in RANKS[: rank_of(room, RANKS)] for name in rooms} | {room, "__version__"}
    upward = {f"{'.'.join(module_of(path))} imports {'.'.join(name)}"
              for path in files_of(room) for name in imports_of(path) if name[1] not in below}  # fmt: skip
    assert not upward


def test_every_room_has_a_rank():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix in (".py", ".pyi")}
    assert rooms - {"__init__", "__pycache__"} == {room for rooms in RANKS for room in rooms}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_knows_its_folder_and_what_all_share(operator):
    for path in files_of(f"ops/{operator}"):
        stem = path.stem.split("_")[0] if path.stem.startswith("triton") else path.stem
        for _, room, *inside in imports_of(path):
            if room == "ops":
                assert inside[0] in (operator, "common"), f"{path} imports {inside}"
            if room == "kernels":
                assert stem == "triton", f"{path} imports {inside}"
                assert inside[0] in (operator, "common"), f"{path} imports {inside}"
            if room == "ops" and inside[0] == operator and stem != "__init__":
                other = inside[1].split("_")[0] if inside[1].startswith("triton") else inside[1]
                if stem == "registration" and other in ("cpu", "cuda", "triton"):
                    continue  # imported when a backend is first used
                below = {name for names in OPERATOR_RANKS[: rank_of(stem, OPERATOR_RANKS)] for name in names}
                assert other in below | {stem}, f"{path} imports {inside}"


@pytest.mark.parametrize("room", ["common", *OPERATORS])
def test_kernels_know_triton_and_what_all_share(room):
    for path in files_of(f"kernels/{room}"):
        for _, other, *inside in imports_of(path):
            assert other == "kernels", f"{path} imports {other}"
            assert inside[0] in (room, "common"), f"{path} imports {inside}"


def test_includes_point_down():
    """csrc/<op>/{cpu,cuda} stand on csrc/<op>, csrc/{cpu,cuda} and csrc/common; a device never includes the other."""
    csrc = ROOT / "csrc"
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu"):
            continue
        place = path.relative_to(csrc).parts[:-1]
        for name in re.findall(r'#include "([^"]+)"', path.read_text(encoding="utf-8")):
            target = Path(name).parts[:-1]
            assert (csrc / name).is_file(), f"{path} includes {name}"
            if place == ("common",):
                allowed = [("common",)]
            elif place[0] in OPERATORS:
                allowed = [("common",), place[:1], place, place[1:]]
            else:
                allowed = [("common",), place]
            assert target in allowed, f"{path} includes {name}"


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_has_one_folder_name(operator):
    for folder in (PACKAGE / "ops" / operator, ROOT / "csrc" / operator, ROOT / "kernels" / operator):
        assert folder.is_dir()
    assert (ROOT / "bench" / "gpu" / "variants" / f"{operator}.py").is_file()
    for launcher in ("cpu", "cuda", "triton"):
        assert (PACKAGE / "ops" / operator / f"{launcher}.py").is_file()
    for device in ("cpu", "cuda"):
        assert (ROOT / "csrc" / operator / device / "bind.cpp").is_file()


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
    written = re.search(rf"^{names} = ([({{].*[)}}])$", (PACKAGE / "ops" / module).read_text(), re.MULTILINE)
    assert [name.strip() for name in declared[1].split(",")] == re.findall(
        r"[a-z]+\d*", written[1].replace("torch.", "")
    )
