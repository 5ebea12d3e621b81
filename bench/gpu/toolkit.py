"""Where CUDA's toolkit and its tools lie, and a folder that an old setuptools can build in."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vsad

ROOT = Path(vsad.__file__).resolve().parents[1]
LICENSE_SETUPTOOLS = 77  # The first release that accepts the form of the license in pyproject.toml.
# Where its own installers put a tool that CUDA's toolkit only links to; the newest comes last by name.
INSTALLED = {"ncu": "nvidia/nsight-compute/*/ncu"}
OPT = Path("/opt")


def cuda_homes() -> list[Path]:
    """The folders that may hold CUDA's toolkit."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return [Path(name) for name in (*named, "/usr/local/cuda")]


def path_with_nvcc() -> str:
    """PATH, extended by the folder of CUDA's compiler where that is not on it."""
    path = os.environ.get("PATH", "")
    homes = (home / "bin" for home in cuda_homes() if (home / "bin" / "nvcc").exists())
    return path if shutil.which("nvcc") else os.pathsep.join([path, *(str(folder) for folder in homes)])


def tool(name: str) -> tuple[str, str | None]:
    """The path of one of CUDA's tools, and why it cannot be used."""
    elsewhere = sorted(OPT.glob(INSTALLED[name]), reverse=True) if name in INSTALLED else []
    files = [*(home / "bin" / name for home in cuda_homes()), *elsewhere]
    found = shutil.which(name) or next((str(file) for file in files if file.exists()), None)
    return found or name, None if found else f"needs {name}, of CUDA's toolkit"


def build_folder() -> Path:
    """The checkout, or a folder of links where setuptools is too old for its pyproject.toml."""
    return ROOT if setuptools_version() >= LICENSE_SETUPTOOLS else _without_pyproject(ROOT / "build" / "gpu-check")


def setuptools_version() -> int:
    try:
        return int(version("setuptools").split(".")[0])
    except PackageNotFoundError:
        return LICENSE_SETUPTOOLS  # The build itself will say what is missing.


def _without_pyproject(folder: Path) -> Path:
    """Make a folder of links to what the build needs; its ``vsad`` is the checkout's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("setup.py", "csrc", "vsad", "kernels", "bench", "tests"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)
    return folder
