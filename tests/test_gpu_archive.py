"""What ``bench.gpu.archive`` keeps of a run that is killed."""

import subprocess
import sys
import tarfile
import time

import pytest

from vsad.bench.gpu import archive
from vsad.bench.gpu.parts import ROOT


def test_what_was_found_is_kept_while_a_run_goes_on_and_after_it_was_killed(tmp_path):
    out, code = tmp_path / "out", (
        "import sys, time; from pathlib import Path; from vsad.bench.gpu import archive\n"
        "folder = Path(sys.argv[1])\n"
        "with archive.renewed({'gpu-check': [folder]}, sys.argv[2], 0.1):\n"
        "    (folder / 'log').write_text('found'); time.sleep(60)"
    )  # fmt: skip
    (tmp_path / "state").mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state"), str(out)], cwd=ROOT) as process:
        end = time.monotonic() + 30
        while time.monotonic() < end and not (out / "gpu-check.tar.gz").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        process.kill()
    with tarfile.open(out / "gpu-check.tar.gz") as kept:
        assert kept.extractfile("state/log").read() == b"found"


def test_it_is_unpacked_where_it_was_and_written_where_something_has_changed(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "ROOT", tmp_path)
        file, module, to = tmp_path / "out" / "check" / "log", tmp_path / "vsad" / "module.so", tmp_path / "x.tar.gz"
        archive.pack([file.parent, module], to)
        assert not to.exists()
        for path in (file, module):
            path.parent.mkdir(parents=True)
            path.write_text("found")
        archive.pack([file.parent, module], to)
        before = to.stat()
        archive.pack([file.parent, module], to)
        assert to.stat().st_ino == before.st_ino
        file.write_text("found more")
        archive.pack([file.parent, module], to)
    with tarfile.open(to) as kept:
        assert kept.extractfile("out/check/log").read() == b"found more"
        assert kept.extractfile("vsad/module.so").read() == b"found"
