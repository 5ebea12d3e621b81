"""The suite on a GPU, as far as it can be tried without one: a fake GPU whose memory is the CPU's."""

import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vsad.bench import cuda, here, machine, measure, operators
from vsad.bench.cases import ALL_CASES, COPY, CUDA_CASES, PRODUCT, Target, align, coreset, nearest, warp
from vsad.bench.peers import Peer, all_peers
from vsad.bench.report import full_table, readme_tables, rival, target_table
from vsad.bench.results import Results, Row, load
from vsad.bench.run import BROKEN, Effort, Runner, seconds_of
from vsad.progress import SILENT

CEILINGS = {"float32": 50e3, "bfloat16": 700e3, "int8": None, "copy": {str(1 << 30): 4000.0}}
GPU = {
    "name": "NVIDIA H200",
    "memory_gb": 141,
    "multiprocessors": 132,
    "l2_mb": 60,
    "capability": "9.0",
    "cuda": "13.0",
}
SMALL = [
    align(1, 3, 8, 12, 12, 2, dtype="bfloat16", device="cuda", compiled=True),
    align(1, 3, 8, 24, 20, 2, backward=True, device="cuda", target=Target(2, ("unfused, einsum",))),
    warp(2, 3, 33, 40, device="cuda"),
    warp(2, 5, 20, 24, backward=True, alone=True, device="cuda"),
    warp(1, 3, 40, 40, dtype="uint8", device="cuda"),
    nearest(90, 70, 16, device="cuda"),
    nearest(90, 70, 16, dtype="bfloat16", device="cuda"),
    nearest(20, 30, 8, k=3, backward=True, device="cuda"),
    coreset(60, 5, 12, device="cuda"),
]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(operators, "device", lambda case: torch.device("cpu"))
    monkeypatch.setattr(cuda, "Clock", lambda: seconds_of)
    monkeypatch.setattr(cuda, "peak_bytes", lambda run: (1 << 20, seconds_of(run)))
    monkeypatch.setattr(cuda, "available_bytes", lambda: 1e12)
    monkeypatch.setattr(cuda, "works", lambda: True)
    monkeypatch.setattr(cuda, "ceilings", lambda: CEILINGS)
    monkeypatch.setattr(cuda, "describe", lambda: GPU)


def runner(peers=None):
    return Runner(Effort(seconds=0.0, most_rounds=2, compiled=False), peers or all_peers(), commit="abc", device="cuda")


def peer(name, function, operator="prototype_distance", **options):
    return Peer(name, {operator: function}, devices=("cuda",), **options)


def plain(problem):
    return next(p for p in all_peers() if p.name == "vsad torch").operators[problem.case.operator](problem)


@pytest.mark.parametrize("small", SMALL, ids=lambda case: case.id)
def test_every_peer_is_right_or_says_why_not(small):
    case = small
    rows = {row.peer: row for row in runner().measure(case)}
    assert rows.keys() == {p.name for p in all_peers() if p.takes_part(case, compiled=False)}
    assert not {"vsad cpu", "OpenCV", "faiss", "scikit-learn"} & rows.keys()
    assert {row.state for row in rows.values()} == {"timed", "skipped"}
    assert rows["vsad torch"].state == "timed"
    assert rows["vsad torch"].peak_bytes == 1 << 20
    for row in rows.values():
        assert row.state == "timed" or row.reason
        if row.state == "skipped" and not row.peer.startswith("vsad "):
            assert "Error" not in row.reason
    yardstick = {"prototype_distance": PRODUCT, "greedy_coreset": None}.get(case.operator, COPY)
    if yardstick:
        assert rows[yardstick].state == "timed"
        assert rows[yardstick].error is None
        assert rival(rows.values()) is None or rival(rows.values()).peer != yardstick
    if case.alone:
        assert rows["grid_sample"].direction == "backward"


def test_low_precision_is_timed_with_a_note_where_it_may_be_off():
    case = nearest(90, 70, 16, device="cuda")

    def off(problem):
        return lambda: (plain(problem)()[0] + 1, plain(problem)()[1])

    low, careless = runner([peer("low", off, approximate=True), peer("careless", off)]).measure(case)
    assert low.state == "timed"
    assert low.reason.startswith("not exact: distance is off by")
    assert careless.state == "wrong"
    assert {r.peer: r for r in runner().measure(case)}["matmul, bf16"].state == "timed"


def test_a_library_without_distances_is_judged_by_its_indices():
    case = nearest(90, 70, 16, device="cuda")

    def indices(step):
        return lambda problem: lambda: (None, (plain(problem)()[1] + step) % 70)

    good, bad = runner([peer("good", indices(0)), peer("bad", indices(1))]).measure(case)
    assert good.state == "timed"
    assert (bad.state, "distance at the index" in bad.reason) == ("wrong", True)


def test_flash_kmeans_is_called_with_what_its_kernel_takes(monkeypatch):
    from vsad.bench.peers import flash_kmeans

    def euclid_assign_triton(x, centroids, x_sq, out=None, c_sq=None):
        assert x.dtype == centroids.dtype == torch.bfloat16
        assert x_sq.dtype == c_sq.dtype == torch.float32
        (B, N, _), K = x.shape, centroids.shape[1]
        assert (x_sq.shape, c_sq.shape, out.shape, out.dtype) == ((B, N), (B, K), (B, N), torch.int32)
        distances = x_sq[..., None] + c_sq[:, None] - 2 * x.float() @ centroids.float().mT
        return out.copy_(distances.argmin(-1))

    module = types.ModuleType("flash_kmeans.assign_euclid_triton")
    module.euclid_assign_triton = euclid_assign_triton
    monkeypatch.setitem(sys.modules, "flash_kmeans", types.ModuleType("flash_kmeans"))
    monkeypatch.setitem(sys.modules, "flash_kmeans.assign_euclid_triton", module)
    there = replace(flash_kmeans.PEERS[0], missing=None)
    (row,) = runner([there]).measure(nearest(90, 70, 16, dtype="bfloat16", device="cuda"))
    assert (row.state, row.reason) == ("timed", None)
    (row,) = runner([there]).measure(nearest(90, 70, 16, k=3, dtype="bfloat16", device="cuda"))
    assert (row.state, row.reason) == ("skipped", "finds the nearest centroid only")


def raising(error):
    def prepare(problem):
        def run():
            raise error

        return run

    return prepare


def test_a_kernel_of_ours_that_fails_is_wrong_unless_it_refuses_or_memory_is_short():
    case = nearest(90, 70, 16, device="cuda")
    refusal = RuntimeError("prototype_distance: backend 'cuda' takes float32, got float64")
    errors = {"wrong": RuntimeError("an illegal memory access"), "skipped": refusal}
    for state, error in errors.items():
        (row,) = runner([peer("vsad cuda", raising(error))]).measure(case)
        assert row.state == state
        assert str(error) in row.reason
    (row,) = runner([peer("vsad cuda", raising(torch.OutOfMemoryError("no memory")))]).measure(case)
    assert row.state == "skipped"
    (row,) = runner([peer("other", raising(RuntimeError("some bug")))]).measure(case)
    assert row.state == "skipped"


def test_nothing_is_timed_after_the_context_broke(monkeypatch, tmp_path):
    case = nearest(90, 70, 16, device="cuda")
    monkeypatch.setattr(cuda, "works", lambda: False)
    peers = [peer("before", plain), peer("vsad cuda", raising(RuntimeError("illegal"))), peer("after", plain)]
    broken = runner(peers)
    rows = {row.peer: (row.state, row.reason) for row in broken.measure(case)}
    assert rows["before"] == rows["after"] == ("skipped", BROKEN)
    assert rows["vsad cuda"][0] == "wrong"
    done = tmp_path / "done.txt"
    cases = [case, nearest(10, 20, 4, device="cuda")]
    assert measure.measure(runner(peers), cases, tmp_path, done) == 1
    monkeypatch.setattr(cuda, "works", lambda: True)
    assert measure.measure(runner([peer("after", plain)]), cases, tmp_path, done) == 0
    assert {r.case for r in load(tmp_path / "nvidia-h200.json").rows if r.state == "timed"} == {cases[1].id}


def test_measuring_goes_on_where_it_stopped(tmp_path, capsys):
    cases = [nearest(10, P, 4, device="cuda") for P in (20, 30, 40)]
    done = tmp_path / "state" / "done.txt"
    one = [peer("one", plain)]
    assert measure.measure(runner(one), cases, tmp_path, done, seconds=-1.0) == measure.UNFINISHED
    assert capsys.readouterr().out == "0 cases measured, 3 left\n"
    measure.note(f"begun:{cases[0].id}", done)  # and then the process died
    assert measure.measure(runner(one), cases, tmp_path, done) == 0
    path = tmp_path / "nvidia-h200.json"
    assert [row.case for row in load(path).rows] == [cases[i].id for i in (1, 2, 0)]
    assert measure.measure(runner(one), cases, tmp_path, done) == 0
    assert capsys.readouterr().out.endswith("0 cases measured\n")


def test_the_cases_are_those_of_the_target_table():
    def found(operator, **wanted):
        cases = [c for c in CUDA_CASES if c.operator == operator and c.targets]
        return [c for c in cases if all(getattr(c, n, c.sizes.get(n)) == value for n, value in wanted.items())]

    for sizes in ({"B": 8, "V": 5, "N": 4, "C": 320, "H": 64, "W": 64}, {"V": 16, "N": 4, "C": 64, "H": 256, "W": 256}):
        (forward,) = found("homography_align", R=3, dtype="bfloat16", backward=False, **sizes)
        ratios = {target.against[0]: target.ratio for target in forward.targets}
        assert ratios == {"unfused": 30, "unfused, compiled": 8, COPY: 1 / 5}
        assert forward.compiled
        (both,) = found("homography_align", R=3, dtype="bfloat16", backward=True, **sizes)
        assert [(t.ratio, t.against[0]) for t in both.targets] == [(20, "unfused")]
    for case in found("homography_warp"):
        ratios = [(t.ratio, t.against[0]) for t in case.targets]
        assert ratios == ([(5, "grid_sample")] if case.alone else [(3, "grid_sample"), (0.7, COPY)])
    for P in (16_384, 262_144):
        for C in (128, 512, 1536):
            ratios = {}
            for case in found("prototype_distance", M=25_088, P=P, C=C, k=1):
                assert case.tflops == (500 if C >= 512 else None)
                ratios |= {t.against[0]: t.ratio for t in case.targets}
            kmeans = {"flash-kmeans": 1.5} if C <= 512 else {}
            assert ratios == {"matmul, bf16": 2, "cdist": 10, **kmeans}
    (case,) = found("greedy_coreset", M=200_000, C=128, size=20_000)
    assert case.targets == (Target(20, ("torch loop",)),)
    names = {p.name for p in all_peers() if "cuda" in p.devices}
    assert all(set(t.against) <= names for c in CUDA_CASES for t in c.targets)
    assert len({case.id for case in ALL_CASES}) == len(ALL_CASES)
    assert all(case.device == "cuda" for case in CUDA_CASES)


def row(case, peer, median_s, **rest):
    values = {"p20_s": median_s, "p80_s": median_s, "gflops": operators.of(case).flops(case) / median_s / 1e9, **rest}
    return Row.of(case, peer, "timed", median_s=median_s, commit="abc", date="2026-11-25", **values)


def results(*rows, gpu=True):
    m = {"cpu": "Some CPU", "cores": 2, "threads": 2, "isa": "avx2", **({"gpu": GPU} if gpu else {})}
    return Results(m, {"torch": "2.11"}, CEILINGS, list(rows))


def test_tables_of_a_gpu_hold_yardsticks_and_rates():
    forward = CUDA_CASES[0]
    bank = next(c for c in CUDA_CASES if c.operator == "prototype_distance" and c.tflops)
    measured = results(
        row(forward, "vsad cuda", 1e-3), row(forward, "unfused", 40e-3), row(forward, COPY, 0.25e-3),
        row(bank, "vsad triton", 2e-3), row(bank, "matmul, bf16", 5e-3, reason="not exact: distance is off"),
        row(bank, PRODUCT, 1e-3),
    )  # fmt: skip
    table = target_table(measured)
    assert "| 1 ms | unfused 40 ms | 40 | 30 | - |" in table
    assert f"| 1 ms | {COPY} 250 us | 0.25 | 0.2 | unfused 40 ms, 40 times |" in table
    assert "| 1 ms | unfused, compiled - | - | 8 |" in table
    assert "| 2 ms | matmul, bf16 5 ms | 2.5 | 2 | - |" in table
    rate = operators.of(bank).flops(bank) / 2e-3 / 1e12
    assert f"| 2 ms | operations a second | {rate:.0f} TFLOP/s | 500 TFLOP/s, not reached | - |" in table
    assert "NVIDIA H200, 141 GB, 132 multiprocessors" in table
    assert "homography_warp forward, (4, 64, 128, 128) |" not in table  # a case for a CPU
    text = full_table(measured)
    assert text.startswith("# NVIDIA H200\n")
    assert "| matmul, bf16 (not exact: distance is off) | 5 ms |" in text
    assert "yardsticks" in text


def test_the_readme_holds_the_tables_of_both_machines():
    on_cpu = results(row(ALL_CASES[0], "vsad cpu", 1e-3), gpu=False)
    old, new = (results(row(CUDA_CASES[0], "vsad cuda", s)) for s in (2e-3, 1e-3))
    old.rows[0] = replace(old.rows[0], date="2026-11-01")
    text = readme_tables([old, on_cpu, new])
    assert text.count("| operator and shape |") == 2
    assert text.index("Some CPU, 2 cores") < text.index("NVIDIA H200, 141 GB")
    assert "| 2 ms |" not in text
    assert readme_tables([on_cpu]) == target_table(on_cpu)


def test_results_of_a_gpu_are_named_after_it():
    assert machine.slug(machine.describe("cuda")) == "nvidia-h200"
    assert "gpu" not in machine.describe()


def test_the_users_shapes_run_on_a_gpu_where_there_is_one(monkeypatch):
    with pytest.raises(ValueError, match=r"^bench: device must be cpu or cuda, got 'tpu'"):
        here.Shapes(device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^bench: device must be cpu, for torch finds no GPU here"):
        here.Shapes(device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(here, "EFFORT", Effort(seconds=0.0, most_rounds=2, compiled=False))
    shapes = here.Shapes(views=3, size=12, channels=8, heads=2, prototypes=50, features=40, device="cuda")
    cases, measured = here.measure(shapes, 60.0, SILENT)
    assert {case.device for case in cases} == {"cuda"}
    assert measured.machine["gpu"] == GPU
    assert {row.state for row in measured.rows} == {"timed", "skipped"}
    assert COPY in {row.peer for row in measured.rows}
    for case in cases:
        here.table(case, measured.of_case(case.id).values())
        assert COPY not in here.verdict(measured.of_case(case.id).values())


def test_the_suite_skips_what_needs_a_gpu_and_loses_no_time():
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark; pip install 'vsad[bench]'")
    suite = Path(__file__).parents[1] / "bench"
    command = [sys.executable, "-m", "pytest", suite, "--device", "cuda", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100, cwd=suite.parent)
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"{len(CUDA_CASES)} skipped" in done.stdout
    assert "needs a GPU" in done.stdout


def test_the_first_measurement_has_our_kernels_and_yardsticks_alone():
    chosen = {name: {p.name for p in all_peers() if keep(p)} for name, keep in measure.PEERS.items()}
    assert {"vsad cuda", COPY, PRODUCT} <= chosen["kernels"] <= {"vsad cuda", "vsad cpu", COPY, PRODUCT}
    assert "unfused, einsum" in chosen["eager"] - chosen["kernels"]
    assert {"vsad triton", "unfused, compiled"} <= chosen["compiled"] - chosen["eager"]
