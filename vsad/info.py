"""What is built, what is usable here, and why something is not: ``python -m vsad.info``."""

from __future__ import annotations

import os
import platform

import torch

import vsad
import vsad.ops
from vsad.ops.common.registry import OPERATORS, REFERENCE, Backend


def info() -> str:
    """A plain-text page on this machine, its libraries and every operator's backends."""
    lines = [
        f"vsad {vsad.__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"instruction set {_instruction_set()}",
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none usable'}, "
        f"CUDA kernels for {_architectures()}",
        "",
        f"{'operator':<20}{'backend':<10}usable",
    ]
    for op in OPERATORS.values():
        for row in op.backends:
            reason = row.missing or _no_device(row)
            lines.append(f"{op.name:<20}{row.name:<10}{f'no: {reason}' if reason else 'yes'}")
        lines.append(f"{op.name:<20}{REFERENCE:<10}yes (reference)")
    return "\n".join(lines)


def _no_device(row: Backend) -> str | None:
    here = {"cpu", *(["cuda"] if torch.cuda.is_available() else [])}
    return None if here & set(row.devices) else f"needs a {' or '.join(row.devices)} device, there is none here"


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
