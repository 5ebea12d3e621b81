"""The source distribution makes the wheel, and the wheel holds all that a user needs and nothing that only we use."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from vsad.ops.common.registry import OPERATORS

ROOT = Path(__file__).parents[1]
OBJECTS = ROOT / "build" / f"objects{sysconfig.get_config_var('EXT_SUFFIX')}"
OURS = ("vsad/bench/gpu/", "vsad/bench/results/")

pytestmark = pytest.mark.skipif(not OBJECTS.is_dir(), reason="needs the objects of a build in this checkout; run make")


def run(*command, cwd, **environment):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Made of the source distribution alone, outside the checkout; only the checkout's compiled objects are reused."""
    folder = tmp_path_factory.mktemp("wheel")
    # egg-info of the checkout would add what an older build has listed
    run(sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    shutil.copytree(OBJECTS, source / "build" / OBJECTS.name, ignore=shutil.ignore_patterns("emulate"))
    left = source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "vsad" / "removed.py"
    left.parent.mkdir(parents=True)
    left.touch()  # as an earlier build left it, of a file that is gone since
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index")
    isas = os.environ.get("VSAD_ISAS", "native")  # as make compiles them
    run(*pip, "--wheel-dir", folder, source, cwd=folder, VSAD_ISAS=isas)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment with the wheel, which borrows every other package from this one."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # a folder that a .pth file names is searched, but its own .pth files, the checkout's among them, are not read
    borrowed = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python


def test_the_wheel_holds_the_files_of_the_checkout_but_for_ours(files):
    folders = [ROOT / "vsad", *(path for path in (ROOT / "vsad").iterdir() if path.is_symlink())]
    found = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    names = {file.relative_to(ROOT).as_posix() for file in found if "__pycache__" not in file.parts}
    names = {name for name in names if not name.endswith(".so") and not name.startswith(OURS)}
    assert {name for name in files if not name.endswith(".so")} == names
    assert {name.split("/")[1].split(".")[0] for name in files if name.endswith(".so")} == (
        {"_cpu", "_cuda"} if shutil.which("nvcc") and os.environ.get("VSAD_CUDA") != "0" else {"_cpu"}
    )
    for name in ("vsad/py.typed", "vsad/_cpu.pyi", "vsad/data/photographs/parts.json"):
        assert name in files


IMPORT_ALL = """
import importlib, importlib.util, json, sys, types
import vsad, vsad.ops
if importlib.util.find_spec("vsad._cuda") is None:  # the launchers are there where their kernels were not built
    vsad._cuda = sys.modules["vsad._cuda"] = types.ModuleType("vsad._cuda")
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
from vsad.ops.common.registry import OPERATORS
for operator in OPERATORS.values():
    assert {row.name for row in operator.backends} == set(json.loads(sys.argv[2])[operator.name])
    assert all(callable(row.load().forward) for row in operator.backends)
print(vsad.__file__)
"""


def test_every_module_imports_outside_the_checkout_without_a_driver(python, files, tmp_path):
    pytest.importorskip("triton", reason="needs triton")
    modules = sorted(name.removesuffix(".py").replace("/", ".") for name in files if name.endswith(".py"))
    modules = [name.removesuffix(".__init__") for name in modules]
    for operator in (folder.name for folder in (ROOT / "csrc").iterdir() if (folder / "cuda" / "bind.h").exists()):
        assert {f"vsad.ops.{operator}.{backend}" for backend in ("cpu", "cuda", "triton")} <= set(modules)
    rows = {operator.name: [row.name for row in operator.backends] for operator in OPERATORS.values()}
    printed = run(python, "-I", "-c", IMPORT_ALL, json.dumps(modules), json.dumps(rows), cwd=tmp_path)
    assert Path(printed.splitlines()[-1]).is_relative_to(python.parents[1])


def test_the_installed_command_and_kernels_work(python, tmp_path):
    page = run(python.with_name("vsad"), "info", cwd=tmp_path)
    assert "yes" in next(line for line in page.splitlines() if line.startswith("homography_align") and "cpu" in line)
    call = "import torch, vsad.ops; H = torch.eye(3); x = torch.rand(1, 2, 5, 4); "
    run(python, "-I", "-c", call + "assert vsad.ops.homography_warp(x, H, backend='cpu').equal(x)", cwd=tmp_path)
