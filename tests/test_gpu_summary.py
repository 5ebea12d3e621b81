"""The page that ``bench.gpu.check`` leaves: right at every moment, also of a run that was killed."""

import os
import subprocess
import sys
import tarfile
import time

from vsad.bench.cases import CUDA_CASES
from vsad.bench.gpu import summary
from vsad.bench.gpu.outcome import Outcome
from vsad.bench.gpu.parts import ROOT
from vsad.bench.gpu.state import NOT_REACHED, RUNNING
from vsad.bench.results import Results, Row, save

KEY = {"sources": "abc", "gpu": "NVIDIA H200", "torch": "2.11", "python": "3.12"}

# A run with a job that is wrong, one that hangs, one that crashes, and one during which the run is killed.
REHEARSAL = """
import os, sys, time
from pathlib import Path
from vsad.bench.gpu import check, processes, state
from vsad.bench.gpu.parts import Job, Part

folder, calls = sys.argv[1], f"open({sys.argv[1]!r} + '/calls', 'a').write(sys.argv[1] + ' '); "

def job(name, code, **options):
    return Job(name, (sys.executable, "-c", "import os, sys, time; " + calls + code, name), **options)

def part(name, *jobs, **options):
    return Part(name, name, 30.0, lambda places: list(jobs), **options)

# It ends with the run, or where its folder says so.
gone = f"os.getppid() != parent or os.path.exists({folder!r} + '/mended')"
stays = f"parent = os.getppid()\\nwhile not ({gone}): time.sleep(0.1)"
stays += "\\nprint('Found: 42 %')"
check.PARTS = {p.name: p for p in (
    part("build", job("compile", "print('built')"), needs_gpu=False),
    part(
        "smoke", job("warp", "print('largest error: 0.1')"), job("align-hangs", "time.sleep(60)", expected_s=1.0),
        job("coreset-crashes", "os.abort()"), job("distance-wrong", "print('largest error: 7'); sys.exit(1)"),
        at_once=4,
    ),
    part("speed", job("homography_align", "", family="align"), job("homography_warp", "", family="warp")),
    part("align", job("forward", stays), job("another", "print('Found: 1 %')")),
    part("tests", job("x", "print('5 passed in 1s')"), job("y", "print('3 passed in 1s')")),
)}
check.machine_key = lambda: {"sources": "abc", "gpu": "NVIDIA H200", "torch": "2.11", "python": "3.12"}
processes.GRACE_S = 1.0
state.module = lambda: Path(sys.executable)  # as if it were still built
sys.exit(check.main(["--folder", folder + "/gpu-check", "--results", folder + "/results", "--seconds", "60"]))
"""


def rehearse(folder, **options):
    environment = {**os.environ, "OUT": str(folder / "out")}
    return subprocess.Popen(
        [sys.executable, "-c", REHEARSAL, str(folder)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def calls(folder):
    file = folder / "calls"
    return file.read_text().split() if file.exists() else []


def test_a_rehearsal_with_a_hang_a_crash_and_a_killed_call(tmp_path):
    with rehearse(tmp_path) as process:
        end = time.monotonic() + 60
        while time.monotonic() < end and "forward" not in calls(tmp_path):
            time.sleep(0.1)
        process.kill()
    page = (tmp_path / "results" / "nvidia-h200-gpu-check.md").read_text()
    assert "**3 of 11 jobs failed, 3 passed.**" in page
    assert "- `smoke/align-hangs`: hung: it took 3 times as long as expected" in page
    assert "- `smoke/coreset-crashes`: ended by signal 6" in page
    assert "- `smoke/distance-wrong`: exit status 1: largest error: 7" in page
    assert "- `speed/homography_align`: smoke/align-hangs hung or crashed" in page
    assert f"- `align`: 1 jobs {NOT_REACHED}\n- `tests`: 2 jobs {NOT_REACHED}\n- `align/forward`: {RUNNING}" in page

    (tmp_path / "mended").touch()
    before = len(calls(tmp_path))
    with rehearse(tmp_path) as process:
        printed = process.communicate(timeout=100)[0]
    assert process.returncode == 1
    again = calls(tmp_path)[before:]
    # What passed is not repeated; what the run was killed in comes last of its part.
    assert sorted(again[:3]) == ["align-hangs", "coreset-crashes", "distance-wrong"]
    assert again[3:] == ["another", "forward", "x", "y"]
    page = (tmp_path / "results" / "nvidia-h200-gpu-check.md").read_text()
    assert page in printed
    assert "**3 of 11 jobs failed, 7 passed.**" in page
    assert "not reached" not in page
    assert "## Found\n\n- `align/forward`: Found: 42 %" in page
    assert "| tests | 2 |  |  |  |" in page
    assert "8 passed |" in page
    with tarfile.open(tmp_path / "out" / "gpu-check.tar.gz") as kept:
        assert kept.extractfile("results/nvidia-h200-gpu-check.md").read().decode() == page


def test_the_summary_is_one_page_with_everything_that_went_wrong(tmp_path):
    ended = {f"matrix/op{i}": Outcome("passed", 2.0, "10 passed, 2 skipped, 90 deselected") for i in range(30)}
    names = tuple(f"FAILED tests/test_ops.py::test[{i}]" for i in range(5))
    ended |= {f"contracts/op{i}": Outcome("failed", 1.0, "5 failed", names) for i in range(20)}
    ended |= {
        "bench/align": Outcome("cut", 125.0, "the time was up: 3 cases"),
        "large/cuda": Outcome("skipped", note="why"),
    }
    text = summary.page(ended, KEY, tmp_path / "none.json")
    assert "| matrix | 30 |  |  |  | 60 | 300 passed, 60 skipped |" in text
    assert "20 of 52 jobs failed, 30 passed." in text
    assert "`bench/align`: the time was up: 3 cases" in text
    assert "`large/cuda`: why" in text
    assert "Nothing was measured." in text
    assert len(text.splitlines()) < 70


def test_the_summary_holds_the_speed_and_every_row_beside_it(tmp_path):
    case = CUDA_CASES[0]
    rows = [Row.of(case, peer, "timed", median_s=s, gflops=1.0) for peer, s in (("vsad cuda", 1e-3), ("unfused", 0.04))]
    gpu = {"name": KEY["gpu"], "memory_gb": 141, "multiprocessors": 132, "capability": "9.0", "cuda": "13.0"}
    ceilings = {"float32": 5e4, "bfloat16": 7e5, "int8": None, "copy": {str(1 << 30): 4000.0}}
    host = {"cpu": "x", "cores": 2, "threads": 2, "isa": "avx2"}
    save(Results({**host, "gpu": gpu}, {}, ceilings, rows), tmp_path / "nvidia-h200.json")
    page = summary.write({"bench/homography_align": Outcome("passed")}, KEY, tmp_path).read_text()
    assert "matrix products float32 50000, bfloat16 700000 GFLOP/s; copies 4000 at 1024 MB" in page
    assert "| 1 ms | unfused 40 ms | 40 | 30 | - |" in page
    assert "| unfused | 40 ms |" in (tmp_path / "nvidia-h200.md").read_text()
