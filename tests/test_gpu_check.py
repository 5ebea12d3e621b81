"""``bench.gpu.check`` without a GPU: choice of parts, limits, resuming, what is read from logs, the summary."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import gpu_smoke
from vsad.bench.cases import CUDA_CASES
from vsad.bench.gpu import check as gpu_check
from vsad.bench.gpu import parts, processes, toolkit
from vsad.bench.gpu import state as states
from vsad.bench.gpu.check import exit_code
from vsad.bench.gpu.outcome import Outcome, outcome
from vsad.bench.gpu.parts import PARTS, ROOT, Job, Part, Places
from vsad.bench.gpu.processes import run
from vsad.bench.gpu.state import NOT_REACHED, RUNNING, State

KEY = {"sources": "abc", "gpu": "NVIDIA H200", "torch": "2.11", "python": "3.12"}


def script(name, code, **options):
    return Job(name, (sys.executable, "-c", code), **options)


def part(name, *jobs, limit_s=5.0, **options):
    return Part(name, "something", limit_s, lambda places: list(jobs), **options)


def here(folder):
    return Places(folder / "results", folder, "tag")


@pytest.fixture
def check(tmp_path):
    """Runs parts on a fake GPU; returns the outcomes by name."""

    def checked(*chosen, total_s=20.0, key=KEY):
        state = State.load(tmp_path / "state.json", key)
        run(chosen, state, here(tmp_path), total_s)
        return state.outcomes

    return checked


def test_every_job_is_recorded_and_one_that_dies_ends_no_other(check, tmp_path):
    ended = check(
        part(
            "a",
            script("good", "print('3 passed, 1 skipped in 0.1s')"),
            script("killed", "import os; print('so far'); os.abort()"),
            script("bad", "print('FAILED tests/x.py::test_y - oops'); print('1 failed, 2 passed in 1s'); exit(1)"),
            script("cannot", "print('needs a unicorn'); exit(77)"),
            script("absent", "", missing="needs compute-sanitizer"),
            at_once=2,
        )
    )
    assert {name: o.state for name, o in ended.items()} == {
        "a/good": "passed", "a/killed": "failed", "a/bad": "failed", "a/cannot": "skipped", "a/absent": "skipped",
    }  # fmt: skip
    assert ended["a/good"].note == "3 passed, 1 skipped"
    assert ended["a/killed"].note == "ended by signal 6: so far"
    assert ended["a/bad"].failures == ("FAILED tests/x.py::test_y - oops",)
    assert ended["a/cannot"].note == "needs a unicorn"
    assert ended["a/absent"].note == "needs compute-sanitizer"
    stored = json.loads((tmp_path / "state.json").read_text())
    assert stored["key"] == KEY
    assert stored["outcomes"]["a/bad"]["state"] == "failed"
    assert State.load(tmp_path / "state.json", KEY).outcomes == ended


def test_what_passed_is_not_repeated_until_something_changes(check, tmp_path):
    tally = tmp_path / "tally"
    count = f"open({str(tally)!r}, 'a').write('x'); "
    jobs = part("a", script("good", count + "print('ok')"), script("bad", count + "exit(1)"))
    for runs, key in ((2, KEY), (3, KEY), (5, {**KEY, "sources": "new"}), (7, {**KEY, "gpu": "NVIDIA H100"})):
        ended = check(jobs, key=key)
        assert len(tally.read_text()) == runs
        assert [o.state for o in ended.values()] == ["passed", "failed"]


def test_what_takes_too_long_is_cut_and_asked_first(check):
    start = time.monotonic()
    patient = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('7 passed in 1s')"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "GRACE_S", 1.0)
        ended = check(
            part(
                "a",
                script("patient", patient),
                script("late", "print('never')"),
                limit_s=1.0,
            ),
            part("b", script("quick", "print('ok')"), limit_s=10.0),
            total_s=12.0,
        )
    assert time.monotonic() - start < 15
    assert ended["a/patient"].state == "cut"
    assert ended["a/patient"].note == "the time was up: 7 passed"
    assert ended["a/late"] == Outcome("cut", note="no time was left")
    assert ended["b/quick"].state == "passed"


def test_a_job_that_hangs_is_stopped_long_before_its_part_ends(check):
    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "GRACE_S", 0.2)
        hangs = "import time, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
        ended = check(part("a", script("hangs", hangs, expected_s=0.5), script("good", "print('ok')")), total_s=30.0)
    assert time.monotonic() - start < 10
    assert ended["a/hangs"].state == "failed"
    assert ended["a/hangs"].note.startswith("hung")
    assert ended["a/good"].state == "passed"


def test_what_needs_kernels_that_hang_or_crash_is_skipped_and_the_rest_goes_on(check):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "GRACE_S", 0.2)
        ended = check(
            part(
                "smoke",
                script("align-hangs", "import time; time.sleep(60)", expected_s=0.3),
                script("warp-crashes", "import os; os.abort()"),
                script("distance-wrong", "exit(1)"),
                script("coreset", ""),
            ),
            part("b", *(script(family, "", family=family) for family in ("align", "warp", "distance", "coreset"))),
            part("c", script("other", "")),
        )
    assert ended["b/align"] == Outcome("skipped", note="smoke/align-hangs hung or crashed")
    assert ended["b/warp"] == Outcome("skipped", note="smoke/warp-crashes hung or crashed")
    assert [ended[name].state for name in ("b/distance", "b/coreset", "c/other")] == ["passed"] * 3


def test_the_summary_is_written_before_and_after_every_job_and_knows_all(tmp_path):
    pages, state = [], State.load(tmp_path / "state.json", KEY)
    chosen = [part("a", script("x", "")), part("b", script("y", ""))]
    run(chosen, state, here(tmp_path), 20.0, lambda: pages.append([o.note for o in state.outcomes.values()]))
    said = "printed nothing"
    assert pages == [[RUNNING, NOT_REACHED], [said, NOT_REACHED], [said, RUNNING], [said, said]]


def test_what_would_be_cut_is_not_begun_and_what_is_shorter_is(check):
    ask = (sys.executable, "-c", "import sys; print(sys.argv[1])", "{seconds}")
    long, asked = script("long", "", expected_s=60), Job("asked", ask, expected_s=60)
    ended = check(part("a", long, asked, script("short", "print('ok')", expected_s=2)), total_s=20.0)
    assert ended["a/long"].note == "takes about 60 s, 20 were left"
    assert [ended[name].state for name in ("a/long", "a/asked", "a/short")] == ["cut", "passed", "passed"]


def test_the_later_parts_get_nothing_where_the_time_is_short_and_the_first_their_own(check):
    ask = "import sys; print(sys.argv[1])"
    chosen = [part(name, Job("x", (sys.executable, "-c", ask, "{seconds}")), limit_s=30.0) for name in "ab"]
    ended = check(*chosen, total_s=40.0)
    assert 28 <= int(ended["a/x"].note) <= 30
    assert 35 <= int(ended["b/x"].note) <= 40


def test_jobs_share_the_time_that_is_left_by_weight(check):
    ask = "import sys; print(sys.argv[1])"
    jobs = [Job(name, (sys.executable, "-c", ask, "{seconds}"), weight=w) for name, w in (("a", 3), ("b", 1), ("c", 1))]
    ended = check(part("p", *jobs), total_s=50.0)
    shares = [int(o.note) for o in ended.values()]
    assert 29 <= shares[0] <= 30
    assert 22 <= shares[1] <= 25
    assert 45 <= shares[2] <= 50


def test_a_deaf_process_is_ended(check):
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "GRACE_S", 0.5)
        ended = check(part("a", script("deaf", deaf)), total_s=1.5)
    assert ended["a/deaf"].state == "cut"


def test_without_a_gpu_only_what_needs_none_runs(check):
    ended = check(
        part("build", script("compile", "print('ok')"), needs_gpu=False),
        part("matrix", script("x", "exit(1)")),
        key={**KEY, "gpu": None},
    )
    assert ended["build/compile"].state == "passed"
    assert ended["matrix/x"] == Outcome("skipped", note="needs a GPU that torch can use")


@pytest.mark.parametrize(
    ("code", "log", "cut", "state", "note"),
    [
        (0, "..\n12 passed, 3 skipped, 7 deselected in 3s", False, "passed", "12 passed, 3 skipped, 7 deselected"),
        (0, "SKIPPED [4] tests/test_gpu.py:3: needs a GPU\n4 skipped in 1s", False, "skipped", "needs a GPU"),
        (5, "\n64 deselected in 0.05s", False, "skipped", "there is no such test"),
        (5, "no tests ran in 0.05s", False, "skipped", "there is no such test"),
        (5, "something else", False, "failed", "exit status 5: something else"),
        (2, "===== 1 error in 0.78s =====", False, "failed", "1 error"),
        (-2, "12 passed in 3.2s", True, "cut", "the time was up: 12 passed"),
        (-2, "1 failed, 12 passed in 3.2s", True, "failed", "1 failed, 12 passed"),
        (-9, "", True, "cut", "the time was up: printed nothing"),
        (-11, "tests/x.py ....\nFatal Python error: Segmentation fault", False, "failed",
         "ended by signal 11: Fatal Python error: Segmentation fault"),
        (0, "9 calls, 1 refused\n========= ERROR SUMMARY: 0 errors", False, "passed", "0 errors"),
        (99, "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", False, "failed",
         "exit status 99: 2 hazards displayed (2 errors, 0 warnings)"),
        (75, "3 cases measured, 4 left", False, "cut", "the time was up: 3 cases measured, 4 left"),
        (77, "needs vsad._cuda\n========= ERROR SUMMARY: 0 errors", False, "skipped", "needs vsad._cuda"),
    ],
)  # fmt: skip
def test_outcomes_are_read_from_status_and_log(code, log, cut, state, note):
    ended = outcome(code, log, 1.0, cut)
    assert (ended.state, ended.note) == (state, note)


def test_the_exit_status_tells_what_is_left_to_do():
    passed, failed, cut, skipped = (Outcome(state) for state in ("passed", "failed", "cut", "skipped"))
    assert exit_code([passed, skipped]) == 0
    assert exit_code([passed, failed, cut]) == 1
    assert exit_code([passed, skipped], nothing_proved=True) == 2
    assert exit_code([passed, cut]) == 3


def test_the_parts_name_tests_families_and_cases_that_exist(tmp_path):
    for name in ("tests", "more", "triton"):
        for job in PARTS[name].jobs(here(tmp_path)):
            assert all((ROOT / word).exists() for word in job.command if word.startswith("tests/"))
    assert set(parts.SMOKE) == set(gpu_smoke.families())
    assert set(parts.SANITIZED) <= set(parts.SMOKE)
    assert {case for _, _, case in [*parts.BOUND.values(), *parts.PROFILED.values()]} <= {
        case.id for case in CUDA_CASES
    }
    families = {job.family for p in PARTS.values() for job in p.jobs(here(tmp_path))} - {None}
    assert all(any(name.startswith(family) for name in parts.SMOKE) for family in families)
    names = [job.name for part in ("tests", "triton") for job in PARTS[part].jobs(here(tmp_path))]
    for op in parts.FAMILIES:
        assert {n.removeprefix("matrix-") for n in names if n.startswith(f"matrix-{op}")} == {
            *(f"{op}-triton-cuda-{dtype}" for dtype in ("float32", "float16", "bfloat16")),
            f"{op}-cuda-cuda", f"{op}-torch-cuda",
        }  # fmt: skip


def test_every_contract_and_large_job_selects_tests(tmp_path):
    all_jobs = [job for part in ("tests", "more", "triton") for job in PARTS[part].jobs(here(tmp_path))]
    jobs = [next(job for job in all_jobs if job.name.startswith("contracts"))]
    jobs += [job for job in all_jobs if job.name.startswith(("large", "startup"))]
    assert all(job.command[:3] == (sys.executable, "-m", "pytest") for job in jobs)
    # One process collects for all jobs: most of a process's time is spent on imports.
    code = "import json, pytest, sys; print('ends', *(int(pytest.main(a)) for a in json.loads(sys.argv[1])))"
    arguments = json.dumps([[*job.command[3:], "--collect-only"] for job in jobs])
    done = subprocess.run(
        [sys.executable, "-c", code, arguments], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.splitlines()[-1].split() == ["ends", *["0"] * len(jobs)], done.stdout[-2000:]


def sanitizer_jobs(folder):
    return [job for job in PARTS["more"].jobs(here(folder)) if job.name.startswith("sanitizer")]


def test_the_sanitizer_is_found_or_its_absence_said(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolkit.shutil, "which", lambda name: None)
        patch.setattr(toolkit, "cuda_homes", lambda: [tmp_path])
        assert {job.missing for job in sanitizer_jobs(tmp_path)} == {"needs compute-sanitizer, of CUDA's toolkit"}
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "compute-sanitizer").touch()
        job = sanitizer_jobs(tmp_path)[0]
    assert job.missing is None
    assert job.command[:3] == (str(tmp_path / "bin" / "compute-sanitizer"), "--tool", "memcheck")
    assert job.command[-4:] == ("-m", "tests.gpu_small", "homography_align", "cuda")


def test_an_old_setuptools_builds_without_pyproject(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolkit, "setuptools_version", lambda: 70)
        patch.setattr(toolkit, "ROOT", tmp_path)
        for name in ("csrc", "vsad", "kernels", "bench", "tests"):
            (tmp_path / name).mkdir()
        (tmp_path / "setup.py").write_text("")
        (tmp_path / "pyproject.toml").write_text("")
        (job, _) = PARTS["build"].jobs(here(tmp_path))
        (again, _) = PARTS["build"].jobs(here(tmp_path))
    assert job.folder == again.folder == tmp_path / "build" / "gpu-check"
    assert sorted(p.name for p in job.folder.iterdir()) == ["bench", "csrc", "kernels", "setup.py", "tests", "vsad"]
    assert (job.folder / "vsad").resolve() == tmp_path / "vsad"


def test_nvcc_is_found_where_the_toolkit_puts_it(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolkit, "cuda_homes", lambda: [tmp_path])
        patch.setattr(toolkit.shutil, "which", lambda name: None)
        assert toolkit.path_with_nvcc() == os.environ["PATH"]
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "nvcc").touch()
        assert toolkit.path_with_nvcc() == os.environ["PATH"] + os.pathsep + str(tmp_path / "bin")
        patch.setattr(toolkit.shutil, "which", lambda name: "/somewhere/nvcc")
        assert toolkit.path_with_nvcc() == os.environ["PATH"]


def test_a_build_that_is_gone_is_built_again(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "ROOT", tmp_path)
        (tmp_path / "vsad").mkdir()
        (tmp_path / "vsad" / "_cpu.so").touch()
        done = {"build/compile": Outcome("passed"), "matrix/x": Outcome("passed")}
        state = State(tmp_path / "state.json", KEY, dict(done))
        state.forget_missing_build()
        assert list(state.outcomes) == ["matrix/x"]
        (tmp_path / "vsad" / "_cuda.cpython-30-another.so").touch()
        state.forget_missing_build()
        assert list(state.outcomes) == ["matrix/x"]
        states.module().touch()
        state = State(tmp_path / "state.json", KEY, dict(done))
        state.forget_missing_build()
        assert state.outcomes == done


def test_the_fingerprint_follows_every_source():
    before = states.fingerprint()
    assert before == states.fingerprint()
    with pytest.MonkeyPatch.context() as patch:
        read = Path.read_bytes
        patch.setattr(Path, "read_bytes", lambda p: read(p) + (b" " if p.name == "geometry.h" else b""))
        assert states.fingerprint() != before


def test_the_command_lists_and_prints_without_running(tmp_path, capsys):
    options = ["--folder", str(tmp_path / "state"), "--results", str(tmp_path / "results")]
    assert gpu_check.main(["--dry-run", "--part", "tests", "--part", "bench", *options]) == 0
    printed = capsys.readouterr().out
    assert "tests/matrix-homography_align-cuda-cuda: " in printed
    assert "bench/cases: " in printed
    assert "sanitizer" not in printed
    assert gpu_check.main(["--list", *options]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PARTS)
    with pytest.raises(SystemExit):
        gpu_check.main(["--part", "nonsense"])
    assert not (tmp_path / "results").exists()


def test_the_command_runs_parts_and_writes_the_summary(tmp_path, capsys):
    fakes = {
        "matrix": part("matrix", script("a-cuda", "print('4 passed in 1s')")),
        "large": part("large", script("b", "")),
    }
    options = ["--folder", str(tmp_path / "state"), "--results", str(tmp_path / "results")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_check, "PARTS", fakes)
        patch.setattr(gpu_check, "machine_key", lambda: KEY)
        assert gpu_check.main(["--part", "matrix", *options]) == 0
        (page,) = (tmp_path / "results").iterdir()
        assert page.name == "nvidia-h200-gpu-check.md"
        assert "1 of 1 jobs passed, none failed." in page.read_text()
        assert gpu_check.main(["--part", "summary", *options]) == 0
        fakes["large"] = part("large", script("b", "exit(3)"))
        assert gpu_check.main(options) == 1
    assert "1 of 2 jobs failed, 1 passed." in page.read_text()
    assert "large/b" in capsys.readouterr().out


def test_without_a_gpu_the_command_says_so_and_fails(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_check, "PARTS", {"matrix": part("matrix", script("a", "exit(1)"))})
        patch.setattr(gpu_check, "machine_key", lambda: {**KEY, "gpu": None})
        assert gpu_check.main(["--folder", str(tmp_path), "--results", str(tmp_path)]) == 2
    text = (tmp_path / "no-gpu-gpu-check.md").read_text()
    assert "Nothing was proved." in text
    assert "needs a GPU that torch can use" in text
