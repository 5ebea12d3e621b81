"""What is built, what is usable here, and why something is not: ``python -m vsad.info``."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import vsad
from vsad import machine

_OPERATORS = Path(__file__).with_name("ops")
# How the definition of an operator in plain torch is called among its backends.
_REFERENCE = "torch"


def info() -> str:
    """A plain-text page on this machine, its libraries and every operator's backends.

    It is told without importing torch.
    """
    lines = [
        f"vsad {vsad.__version__}, Python {platform.python_version()}, torch {machine.torch_build()['__version__']}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, instruction set {_instruction_set()}",
        f"GPU: {', '.join(machine.gpus()) or f'none usable, {machine.why_no_gpu()}'}; "
        f"CUDA kernels for {_architectures()}",
        "",
        f"{'operator':<20}{'backend':<10}usable",
    ]
    for name, backends in operators().items():
        for backend in backends:
            reason = machine.missing(backend) or _no_device(backend)
            lines.append(f"{name:<20}{backend:<10}{f'no: {reason}' if reason else 'yes'}")
        lines.append(f"{name:<20}{_REFERENCE:<10}yes (reference)")
    return "\n".join(lines)


def operators() -> dict[str, list[str]]:
    """The operators and their backends: each has a folder, and in it a launcher for each of its backends."""
    folders = sorted(each.parent for each in _OPERATORS.glob("*/registration.py") if each.parent.name != "common")
    return {each.name: [name for name in machine.BACKENDS if (each / f"{name}.py").is_file()] for each in folders}


def _no_device(backend: str) -> str | None:
    wanted = machine.devices(backend)
    here = {"cpu", *(["cuda"] if machine.gpus() else [])}
    return None if here & set(wanted) else f"needs a {' or '.join(wanted)} device, there is none here"


def _instruction_set() -> str:
    try:
        from vsad import _cpu
    except ImportError:
        return "unknown (vsad._cpu is not built)"
    return str(_cpu.isa())


def _architectures() -> str:
    try:
        from vsad import _cuda
    except ImportError:
        return "no architecture (vsad._cuda is not built)"
    return ", ".join(f"sm_{arch}" for arch in _cuda.ARCHITECTURES.split())


if __name__ == "__main__":
    print(info())
