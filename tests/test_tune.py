"""Tuning of launch tables, on a fake backend whose time is what its constants say."""

import functools
import types

import pytest
import torch

from vsad import ops
from vsad.bench import operators, tune
from vsad.bench.cases import warp
from vsad.bench.tune import Knob, advice, knobs, looked_up, try_all

CASES = [warp(1, 2, 8, S, device="cuda") for S in (8, 16)]


@pytest.fixture
def module(monkeypatch):
    """``run`` of the operator "takes" TILE + LAUNCH[class], where the class is cached as launchers do."""
    fake = types.ModuleType("vsad.kernels.fake")
    fake.TILE, fake.LAUNCH, fake.OTHER = 5.0, {"narrow": 4.0, "wide": 8.0, "never": 1.0}, {}
    fake.CANDIDATES = {"TILE": [3.0, 7.0, -1.0], "LAUNCH": {"wide": [6.0], "narrow": [6.0], "never": [0.5]}}
    fake.took = 0.0

    @functools.cache
    def shape(width):
        return fake.TILE, fake.LAUNCH["wide" if width > 8 else "narrow"]

    def prepare(problem, backend):
        def run():
            tile, launch = fake.shape(problem.case.sizes["W"])
            fake.took = tile + launch
            out = ops.homography_warp(problem.tensors["input"], problem.tensors["homography"], backend="torch")
            return out + 1 if tile < 0 else out

        return run

    fake.shape = shape
    monkeypatch.setattr(operators, "device", lambda case: torch.device("cpu"))
    monkeypatch.setitem(tune.OPERATORS, "homography_warp", prepare)
    return fake


def clock(module):
    def seconds(run):
        run()
        return module.took

    return seconds


def test_the_best_candidates_are_found_and_wrong_ones_are_not_timed(module):
    said = []
    turned = knobs([module])
    for case in CASES:
        try_all(case, "triton", turned, clock(module), said.append)
    assert module.TILE == 5.0
    assert module.LAUNCH == {"narrow": 4.0, "wide": 8.0, "never": 1.0}
    tile, wide, narrow, never = turned
    assert tile.seconds["ships"] == {CASES[0].id: 9.0, CASES[1].id: 13.0}
    assert "-1.0" not in tile.seconds
    assert any("fake.TILE = -1.0: WrongError" in line for line in said)
    assert tile.best() == ("3.0", pytest.approx((7 / 9 * 11 / 13) ** 0.5))
    assert wide.seconds == {"ships": {CASES[1].id: 13.0}, "6.0": {CASES[1].id: 11.0}}
    assert narrow.best() == ("ships", 1.0)
    assert never.seconds == {}
    assert advice(turned) == [
        "fake.TILE = 3.0    # 0.811 of the time of 5.0, over 2 cases",
        "fake.LAUNCH['wide'] = 6.0    # 0.846 of the time of 8.0, over 1 cases",
        "fake.LAUNCH['narrow'] = 4.0    # as it ships, over 1 cases",
        "fake.LAUNCH['never']: no case depends on it, or what ships failed",
    ]


def test_a_table_tells_what_was_looked_up(module):
    problem = operators.of(CASES[0]).inputs(CASES[0])
    run = tune.OPERATORS["homography_warp"](problem, "triton")
    by_key = {key: looked_up(Knob(module, "LAUNCH", key, []), run) for key in module.LAUNCH}
    assert by_key == {"narrow": True, "wide": False, "never": False}
    table = tune.Table({"a": 1})
    assert (table.get("b", 2), table["a"], table.seen) == (2, 1, {"a", "b"})


def test_modules_without_candidates_are_said_to_have_none(capsys, monkeypatch):
    monkeypatch.setattr(tune, "modules", lambda operator, backend: [types.ModuleType("vsad.kernels.plain")])
    assert tune.main(["homography_warp"]) == 0
    assert capsys.readouterr().out == "homography_warp: the modules of triton offer no CANDIDATES; nothing to try\n"


def test_the_modules_of_a_backend_are_found_by_name():
    pytest.importorskip("triton", reason="needs triton")
    assert "vsad.kernels.homography_warp" in [m.__name__ for m in tune.modules("homography_warp", "triton")]
