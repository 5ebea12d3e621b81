"""The benchmark suite: it times nothing that is wrong, says why it skips, and keeps what we lose."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.test_cli import vsad
from vsad.bench import here, machine, memory, operators
from vsad.bench.cases import CASES, align, coreset, detect, nearest, train, warp
from vsad.bench.here import Shapes
from vsad.bench.peers import Peer, all_peers
from vsad.bench.profile import OTHER, profile, table
from vsad.bench.results import load
from vsad.bench.run import Effort, Runner, in_turns, quantile

SMALL = {
    "homography_align": align(1, 3, 8, 12, 12, 2),
    "homography_align backward": align(1, 3, 8, 24, 20, 2, backward=True),
    "homography_align contiguous": align(2, 3, 8, 12, 12, 2, N=1, layout="contiguous"),
    "homography_align half": align(1, 3, 8, 12, 12, 2, dtype="bfloat16", backward=True),
    "homography_warp": warp(2, 3, 33, 40),
    "homography_warp backward": warp(2, 5, 20, 24, backward=True),
    "homography_warp bytes": warp(1, 3, 40, 40, dtype="uint8"),
    "prototype_distance": nearest(90, 70, 16),
    "prototype_distance backward": nearest(20, 30, 8, k=3, backward=True),
    "prototype_distance cosine": nearest(20, 30, 8, k=9, metric="cosine"),
    "greedy_coreset": coreset(60, 5, 12),
    "greedy_coreset clusters": coreset(900, 4, 20, data="clustered"),
    "model": detect("tiny", 3, V=3, side=16, N=2),
    "model training": train("tiny", V=3, side=16, N=2),
}
CEILINGS = {"float32": 100.0, "bfloat16": 100.0, "int8": None, "copy": {str(1 << 20): 10.0}}
BRIEF = Effort(seconds=0.0, most_rounds=2, compiled=False)


def runner(peers=None, **options):
    return Runner(BRIEF, all_peers() if peers is None else peers, ceilings=CEILINGS, commit="abc", **options)


def peer_of(name):
    return next(peer for peer in all_peers() if peer.name == name)


@pytest.mark.parametrize("small", SMALL)
def test_every_peer_is_right_or_says_why_not(small):
    case = SMALL[small]
    rows = runner().measure(case)
    assert {row.peer for row in rows} == {p.name for p in all_peers() if p.takes_part(case, compiled=False)}
    for row in rows:
        assert row.state in ("timed", "skipped"), (row.peer, row.reason)
        if row.state == "skipped":
            assert row.reason
            assert "Error:" not in row.reason, row.reason
    timed = {row.peer: row for row in rows if row.state == "timed"}
    assert len(timed) >= (1 if case.dtype == "uint8" else 2)
    for row in timed.values():
        assert 0 < row.p20_s <= row.median_s <= row.p80_s
        assert row.rounds == len(row.seconds) >= 1
        assert 0 <= row.error <= 1
        assert row.share > 0
        assert row.commit == "abc"


def spoil(result, by):
    first, *rest = result if isinstance(result, tuple) else (result,)
    first = first.clone()
    first[..., -1] += by
    return (first, *rest) if rest else first


@pytest.mark.parametrize("small", SMALL)
def test_a_wrong_peer_is_reported_and_not_timed(small):
    case = SMALL[small]
    right = peer_of("OpenCV" if case.dtype == "uint8" else "vsad torch")
    calls = []

    def prepare(problem):
        run = right.operators[case.operator](problem)

        def wrong():
            calls.append(1)
            return spoil(run(), 1 if case.operator == "greedy_coreset" else 3)

        return wrong

    (row,) = runner([Peer("careless", {case.operator: prepare})]).measure(case)
    assert row.state == "wrong"
    assert row.median_s is None
    assert len(calls) == 1
    assert row.reason


@pytest.mark.parametrize("spoiled", [1, 2, 3])
def test_a_wrong_gradient_is_found(spoiled):
    case = SMALL["homography_align backward"]

    def prepare(problem):
        run = peer_of("vsad torch").operators[case.operator](problem)

        def wrong():
            result = list(run())
            result[spoiled] = result[spoiled] * 1.01
            return tuple(result)

        return wrong

    (row,) = runner([Peer("careless", {case.operator: prepare})]).measure(case)
    assert row.state == "wrong"
    assert "gradient of" in row.reason


def test_an_index_of_another_distance_is_wrong():
    case = SMALL["prototype_distance"]

    def prepare(problem):
        run = peer_of("vsad torch").operators[case.operator](problem)
        return lambda: (run()[0], (run()[1] + 1) % 70)

    (row,) = runner([Peer("careless", {case.operator: prepare})]).measure(case)
    assert row.state == "wrong"
    assert "distance at the index" in row.reason


def test_skips_say_why():
    case = SMALL["homography_warp"]

    def fails(problem):
        raise OSError("no disk\nand more")

    peers = [
        Peer("absent", {case.operator: fails}, missing="needs absent; pip install 'vsad[bench]'"),
        Peer("broken", {case.operator: fails}),
        Peer("slow", {case.operator: fails}, gflops={case.operator: 1e-12}),
    ]
    reasons = [row.reason for row in runner(peers).measure(case)]
    assert reasons[0] == "needs absent; pip install 'vsad[bench]'"
    assert reasons[1] == "OSError: no disk"
    assert reasons[2].startswith("would take about")
    late = runner([peer_of("grid_sample")], deadline=time.monotonic() - 1).measure(case)
    assert [row.reason for row in late] == ["the time was up"]


def test_peers_take_turns():
    order = []
    times = in_turns({name: (lambda name=name: order.append(name), rounds) for name, rounds in (("a", 6), ("b", 2))})
    assert {name: len(t) for name, t in times.items()} == {"a": 6, "b": 2}
    assert order.index("b") < len(order) - 1 - order[::-1].index("a")
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2
    assert quantile([1.0, 2.0], 0.2) == pytest.approx(1.2)


def test_memory_sees_what_is_freed_again_and_not_the_inputs():
    if not memory.CLEAR.exists():
        pytest.skip("needs Linux's /proc/self/clear_refs")
    held = torch.ones(1 << 23)
    seen, seconds = memory.peak_bytes(lambda: torch.ones(1 << 24).sum() + held.sum())
    assert 60e6 < seen < 90e6
    assert seconds > 0


def test_the_cases_are_those_of_the_target_table():
    rows = {(c.operator, c.backward, c.layout, c.dtype, tuple(c.sizes.values()), c.target.ratio, c.target.against)
            for c in CASES if c.target}  # fmt: skip
    shapes = [(1, 5, 320, 32, 32, 8), (1, 5, 64, 64, 64, 4), (1, 8, 128, 64, 64, 4)]
    expected = {
        ("homography_align", backward, layout, "float32", (*shape, 2, R), ratio, ("unfused, einsum",))
        for layout, backward, ratio in (
            ("channels last", False, 60), ("channels last", True, 35),
            ("contiguous", False, 20), ("contiguous", True, 20),
        )
        for shape in shapes
        for R in (3, 5)
    }  # fmt: skip
    for dtype, shape, ratio, against in (
        ("float32", (4, 64, 128, 128), 2, ("kornia", "grid_sample")),
        ("float32", (4, 320, 32, 32), 2, ("kornia", "grid_sample")),
        ("float32", (1, 3, 1024, 1024), 1, ("OpenCV",)),
        ("uint8", (1, 3, 1024, 1024), 1, ("OpenCV",)),
    ):
        sizes = (*shape, "bilinear", "zeros")
        expected.add(("homography_warp", False, "channels last", dtype, sizes, ratio, against))
    for sizes, ratio in (
        ((5120, 10000, 512, 1), 3), ((20480, 20000, 128, 1), 3), ((784, 16384, 512, 1), 3),
        ((5120, 10000, 512, 9, "packed"), 2.5),
    ):  # fmt: skip
        expected.add(("prototype_distance", False, "channels last", "float32", sizes, ratio, ("faiss",)))
    sizes = (50000, 128, 5000, "gaussian")
    expected.add(("greedy_coreset", False, "channels last", "float32", sizes, 20, ("torch loop",)))
    for case in (detect("small", 8), train("small")):
        for dtype in ("float32", "bfloat16"):
            sizes = tuple(case.sizes.values())
            expected.add(("model", case.backward, "channels last", dtype, sizes, 3, ("unfused model", "vsad torch")))
    assert rows == expected


def test_operators_are_replaced_for_the_measurement_only():
    from vsad.bench.peers import composed
    from vsad.models import mvam

    kept = mvam.homography_align
    with composed.in_place_of_operators(composed.homography_align, composed.homography_warp):
        assert mvam.homography_align is composed.homography_align
    assert mvam.homography_align is kept


def test_the_profile_counts_every_moment_once():
    case = detect("tiny", 3, V=3, side=16, N=2)
    parts = profile(operators.of(case).step(operators.of(case).inputs(case)), rounds=1)
    assert {"autoencoder", "UNet and MVAM: convolutions", "homography_align", "memory", OTHER} <= set(parts)
    start = time.perf_counter()
    inner = profile(lambda: torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 2, 2)) if time.sleep(0.02) is None else 0, 1)
    assert 20 <= sum(clock for clock, _ in inner.values()) <= 1e3 * (time.perf_counter() - start)
    assert "| **all** |" in table("small", parts)


def test_cases_are_distinct_and_reach_from_small_to_large():
    assert len({case.id for case in CASES}) == len(CASES)
    names = {peer.name for peer in all_peers()}
    assert all(set(case.target.against) <= names for case in CASES if case.target)
    sizes = [c.sizes for c in CASES if c.operator == "homography_align"]
    assert {s["V"] for s in sizes} >= {2, 4, 8, 16, 32, 64}
    assert max(s["H"] for s in sizes) == 256
    assert {s["R"] for s in sizes} == {1, 3, 5, 7}
    assert max(c.sizes["P"] for c in CASES if c.operator == "prototype_distance") == 10**6
    for axis in ("V", "N", "R", "H", "P"):
        assert len({c.sizes[axis] for c in CASES if axis in c.curves}) >= 4


def test_useful_work_is_counted_once():
    case = align(1, 5, 64, 32, 32, 4, N=2, R=3)
    taps = 5 * 32 * 32 * 2 * 16
    assert operators.of(case).flops(case) == taps * 2 * 2 * 64
    assert operators.of(case).bytes(case) == 4 * 5 * 64 * 32 * 32 * 4
    measured = {"float32": 100.0, "bfloat16": 200.0, "int8": 400.0, "copy": {"1000": 1.0, "1000000": 10.0}}
    shares = [
        (warp(1, 3, 8, 8), 0.2),
        (nearest(8, 8, 8), 0.05),
        (detect("tiny", 1), 0.2),
        (detect("tiny", 1, dtype="bfloat16"), 0.1),  # it may multiply in the faster of its two types
    ]
    for case, share in shares:
        assert machine.share_of_ceiling(case, 2e9, 1e6, 0.1, measured) == pytest.approx(share)
    assert machine.share_of_ceiling(warp(1, 3, 8, 8), 1, 1e6, 0.1, measured) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 4}, "window must be odd, got 4"),
        ({"heads": 3}, "heads must divide channels=64, got 3"),
        ({"views": 1}, "views must be at least 2, got 1"),
        ({"k": 11, "prototypes": 10}, "k must be at most prototypes=10, got 11"),
        ({"dtype": "int8"}, "dtype must be one of float32, .*got 'int8'"),
        ({"size": 100_000}, "shapes must fit into memory"),
    ],
)
def test_impossible_shapes_are_named(changes, message):
    with pytest.raises(ValueError, match=f"^bench: {message}"):
        replace(Shapes(), **changes)


def test_the_command_measures_the_users_shapes(tmp_path):
    small = ["--views", 3, "--size", 12, "--channels", 8, "--heads", 2, "--prototypes", 50, "--features", 40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here, "EFFORT", BRIEF)
        patch.setattr(machine, "ceilings", lambda device: CEILINGS)
        out = vsad("bench", *small, "--json", "out.json", cwd=tmp_path)
    assert "homography_align forward + backward, (1, 3, 8, 12, 12), heads=2, N=2, R=3" in out
    assert out.count(" wins: ") + out.count(" alone ran") == 5
    assert out.endswith("out.json")
    found = load(tmp_path / "out.json")
    assert {r.state for r in found.rows} <= {"timed", "skipped"}
    assert vsad("bench", "--heads", 7, cwd=tmp_path, fails=True).startswith("error: bench: heads must divide")


def test_a_dtype_that_the_machine_multiplies_slowly_does_not_hold_up_the_suite(monkeypatch):
    sides = []

    def slowly(a, b):
        sides.append(len(a))
        time.sleep(2 * machine.SLOW_S)

    monkeypatch.setattr(torch, "_int_mm", slowly)
    monkeypatch.setattr(torch, "mm", lambda a, b: sides.append(len(a)))
    found = machine.ceilings()
    assert set(found) == {"float32", "bfloat16", "int8", "copy"}
    assert sides == 2 * [*7 * [512], *7 * [2048]] + 7 * [512]
    assert 0 < found["int8"] < found["float32"]


def test_the_suite_runs_under_pytest_benchmark(tmp_path):
    pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark; pip install 'vsad[bench]'")
    suite = Path(__file__).parents[1] / "bench"
    name = "homography_warp-forward-B4-C320-H32-W32"
    command = [sys.executable, "-m", "pytest", suite, "--quick", "-q", "-k", name, "-p", "no:cacheprovider"]
    command += ["--results", tmp_path / "results", f"--benchmark-json={tmp_path / 'pytest.json'}"]
    # pytest-benchmark does nothing in a worker of pytest-xdist, which it knows by these variables.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=100, cwd=suite.parent, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:]
    (path,) = (tmp_path / "results").iterdir()
    rows = {r.peer: r for r in load(path).rows}
    for benchmark in json.loads((tmp_path / "pytest.json").read_text())["benchmarks"]:
        ours = rows[benchmark["params"]["peer"].split("name='")[1].split("'")[0]]
        assert benchmark["stats"]["median"] == pytest.approx(ours.median_s, rel=1e-3)
        assert benchmark["stats"]["rounds"] == ours.rounds
        assert benchmark["extra_info"]["peak_bytes"] == ours.peak_bytes
