"""Curves to draw: few points, between which the line stays at the curve."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from vsad.metrics import CurvePoints, Curves, Evaluation, PixelScores
from vsad.metrics.curve import Curve
from vsad.metrics.points import pro_points, roc_points


def drawn(scores: np.ndarray, labels: np.ndarray) -> CurvePoints:
    curve = Curve.of(scores, labels)
    assert curve is not None
    return roc_points(curve)


def distance(x: np.ndarray, y: np.ndarray, points: CurvePoints) -> float:
    """How far the farthest of the curve's points lies from the line that is drawn."""
    line = np.stack([points.x, points.y], 1)
    start, step = line[:-1], np.diff(line, axis=0)
    worst = 0.0
    for part in np.array_split(np.stack([x, y], 1), 1 + len(x) // 500):
        away = part[:, None] - start
        share = np.clip((away * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-30), 0, 1)
        worst = max(worst, float(np.hypot(*np.moveaxis(away - share[..., None] * step, -1, 0)).min(1).max()))
    return worst


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("size", [30, 500, 20_000])
def test_the_line_is_the_roc_curve_of_scikit_learn(levels: int, shift: float, size: int) -> None:
    rng = np.random.default_rng(size)
    labels = np.arange(size) < size // 3
    scores = np.round((rng.normal(size=size) + shift * labels) * levels / 4)
    points = drawn(scores, labels)
    x, y, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert len(points.x) == len(points.y) <= 200
    assert (points.x[0], points.y[0], points.x[-1], points.y[-1]) == (0, 0, 1, 1)
    assert (np.diff(points.x) >= 0).all()
    assert (np.diff(points.y) >= 0).all()
    assert distance(x, y, points) < 0.002  # less than a pixel of 400


def test_corners_stay() -> None:
    labels = np.arange(1000) < 100
    assert drawn(labels.astype(float), labels) == CurvePoints([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    assert drawn(np.zeros(1000), labels) == CurvePoints([0.0, 1.0], [0.0, 1.0])


def test_a_jump_between_two_far_thresholds_has_its_corners() -> None:
    # 5000 positives, then all negatives, then 5000 positives.
    labels = np.arange(20_000) % 20_000 < 5000
    labels[-5000:] = True
    points = drawn(-np.arange(20_000.0), labels)
    assert points == CurvePoints([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_the_area_below_the_pro_line_is_aupro(limit: float) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 40, 40), bool)
    masks[:3, 4:14, 20:26] = masks[2, 30:33, 3:5] = True
    pixels = PixelScores()
    pixels.add(rng.normal(size=masks.shape) + 1.5 * masks, masks)
    found = pixels.curve()
    assert found is not None
    points = pro_points(found.curve, found.overlap, limit)
    x, y = np.array(points.x), np.array(points.y)
    assert len(x) <= 200
    assert (x[0], y[0], x[-1]) == (0, 0, limit)
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2 / limit)
    assert area == pytest.approx(found.aupro(limit), abs=0.001)


def test_curves_of_an_evaluation_are_lists_for_json() -> None:
    evaluation = Evaluation()
    assert evaluation.curves() == Curves(None, None, None, None)
    rng = np.random.default_rng(0)
    for defect in (False, True, True, False):
        masks = np.zeros((2, 12, 12), bool)
        masks[0, 3:6, 3:6] = defect
        maps = rng.random(masks.shape) + 0.5 * masks
        evaluation.add(maps, masks, maps.max((1, 2)), masks.any((1, 2)), maps.max(), defect)
    curves = evaluation.curves()
    content = json.loads(json.dumps(dataclasses.asdict(curves)))
    assert list(content) == ["sample", "view", "pixel", "pro"]
    assert all(len(line["x"]) == len(line["y"]) > 2 for line in content.values())
    result = evaluation.result()
    for level, line in (("sample", curves.sample), ("view", curves.view), ("pixel", curves.pixel)):
        assert line is not None
        x, y = np.array(line.x), np.array(line.y)
        assert np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2 == pytest.approx(result[level]["auroc"], abs=0.001)
    assert curves.pro is not None
    assert curves.pro.x[-1] == 0.3
