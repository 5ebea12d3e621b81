"""How every job of ``check`` ended, kept in a file for as long as sources, GPU, torch and Python stay the same."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vsad.bench.gpu.outcome import Outcome
from vsad.bench.gpu.parts import ROOT

# Notes of jobs that have not ended.
NOT_REACHED = "not reached"
RUNNING = "was running when the run was ended from outside"


@dataclass
class State:
    """Outcomes by ``part/job``, in a small file that is written after each.

    Args:
        path: of the file.
        key: what the outcomes depend on, see ``machine_key``.
        outcomes: by ``part/job``.
    """

    path: Path
    key: dict[str, Any]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, key: dict[str, Any]) -> State:
        """Read the file; the outcomes are empty where there is none or it was written under another key."""
        state = cls(path, key)
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["key"] == key:
                state.outcomes = {name: Outcome(**values) for name, values in stored["outcomes"].items()}
        return state

    def expect(self, names: list[str]) -> None:
        """Note the jobs of a run that nothing is known of, all in the run's order."""
        unknown = Outcome("cut", note=NOT_REACHED)
        self.outcomes = {name: self.outcomes.get(name, unknown) for name in names} | self.outcomes
        self.write()

    def record(self, name: str, ended: Outcome) -> None:
        self.outcomes[name] = ended
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"key": self.key, "outcomes": {n: asdict(o) for n, o in self.outcomes.items()}}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        new.replace(self.path)  # A process that dies while it writes leaves the old file whole.

    def passed(self, name: str) -> bool:
        return name in self.outcomes and self.outcomes[name].state == "passed"

    def forget(self, parts: set[str]) -> None:
        self.outcomes = {name: ended for name, ended in self.outcomes.items() if name.split("/")[0] not in parts}

    def forget_missing_build(self) -> None:
        """Forget that the build passed where its module is not there, as on a fresh machine."""
        if not module().exists():
            self.forget({"build"})


def module() -> Path:
    """The CUDA module that the build leaves."""
    return ROOT / "vsad" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


def fingerprint() -> str:
    """A hash of all sources, which also tells apart checkouts without git and those with changes."""
    digest = hashlib.sha256()
    folders = ("csrc", "kernels", "bench", "vsad", "tests")
    suffixes = (".py", ".h", ".cpp", ".cu")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    for path in sorted({p.resolve() for p in [*files, ROOT / "setup.py"] if p.is_file()}):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def machine_key() -> dict[str, Any]:
    """What an outcome depends on: the sources, the GPU, torch and Python."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"sources": fingerprint(), "gpu": gpu, "torch": torch.__version__, "python": sys.version.split()[0]}


def tag(key: dict[str, Any]) -> str:
    """The key as a short word for names of files."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
