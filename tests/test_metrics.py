"""Metrics against scikit-learn, and AUPRO against the plain loop over thresholds and regions."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from vsad.metrics import aupro, auroc, average_precision, evaluate, f1_max, summarize

METRICS = (auroc, average_precision, f1_max)


def sklearn_f1_max(labels: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(2 * precision * recall / (precision + recall)))


def brute_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """Every distinct threshold in turn, every region in turn."""
    regions = []
    for image in range(len(masks)):
        components, count = ndimage.label(masks[image], structure=np.ones((3, 3)))
        for r in range(1, count + 1):
            inside = np.zeros(masks.shape, bool)
            inside[image] = components == r
            regions.append(inside)
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        accepted = maps >= threshold
        points.append((accepted[~masks].mean(), np.mean([accepted[r].mean() for r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit < x1:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def tied_maps(seed: int, levels: int, shape: tuple[int, ...] = (4, 12, 13)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < 0.2
    maps = (rng.integers(0, levels, shape) + masks * rng.integers(0, 2, shape)).astype(np.float32) / 8
    return maps, masks


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 200), levels=st.sampled_from([1, 2, 5, 1000]))
def test_agrees_with_scikit_learn_with_ties(seed: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, size).astype(np.float32) / 7
    labels = rng.random(size) < rng.uniform(0.05, 0.95)
    labels[:2] = True, False
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert f1_max(scores, labels) == pytest.approx(sklearn_f1_max(labels, scores), abs=1e-9)


@pytest.mark.parametrize("levels", [2, 4, 30])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_aupro_equals_the_plain_loop(levels: int, limit: float, seed: int) -> None:
    maps, masks = tied_maps(seed, levels)
    assert aupro(maps, masks, limit) == pytest.approx(brute_aupro(maps, masks, limit), abs=1e-9)


def test_aupro_by_hand() -> None:
    # 13 normal pixels, one region of two pixels and one of one.
    maps = torch.tensor([[[9.0, 1, 1, 1], [1, 1, 5, 5]], [[0.0, 0, 0, 0], [8, 0, 0, 7]]])
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # diagonal neighbors: one region of two pixels
    masks[1, 1, 3] = True
    # Descending: 9 half of region one; 8 one false; 7 all of region two; 5 two false; 1 the rest, four false.
    points = [(0, 0.25), (1, 0.25), (1, 0.75), (3, 0.75), (7, 1.0), (13, 1.0)]
    limit = 5 / 13
    area = 0.25 * 1 + 0.75 * 2 + (0.75 + 0.875) / 2 * 2
    assert points[3][0] / 13 < limit < points[4][0] / 13
    assert aupro(maps, masks, limit) == pytest.approx(area / 13 / limit, abs=1e-12)


def test_a_perfect_map_scores_one_and_its_negative_scores_zero() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:4, 2:5] = True
    maps = masks.astype(np.float32)
    assert [m(maps, masks) for m in (*METRICS, aupro)] == [1.0, 1.0, 1.0, 1.0]
    assert auroc(-maps, masks) == 0.0
    assert aupro(-maps, masks) == 0.0


def test_every_region_counts_the_same_whatever_its_area() -> None:
    masks = np.zeros((1, 20, 20), bool)
    masks[0, :10, :10] = True
    masks[0, 15, 15] = True
    found_large = masks & (np.arange(20) < 12)
    found_small = masks & ~found_large
    assert aupro(found_large.astype(np.float32), masks, 0.001) == pytest.approx(0.5, abs=1e-3)
    assert aupro(found_small.astype(np.float32), masks, 0.001) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
def test_tensors_and_arrays_of_any_dtype(dtype: torch.dtype) -> None:
    scores = torch.tensor([3, 1, 2, 2, 0]).to(dtype)
    labels = torch.tensor([1, 0, 1, 0, 0])
    for metric in METRICS:
        expected = metric(np.array([3.0, 1, 2, 2, 0]), np.array([1, 0, 1, 0, 0], bool))
        assert metric(scores, labels) == expected


def test_float64_scores_keep_their_order() -> None:
    scores = np.array([1.0, 1.0 + 1e-12])
    assert auroc(scores, np.array([False, True])) == 1.0
    assert auroc(scores.astype(np.float32), np.array([False, True])) == 0.5


def test_inputs_are_left_alone() -> None:
    maps, masks = tied_maps(3, 9)
    before = maps.copy(), masks.copy()
    aupro(maps, masks)
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.parametrize("labels", [np.zeros(4, bool), np.ones(4, bool)])
def test_one_class_is_not_defined(labels: np.ndarray) -> None:
    scores = np.arange(4, dtype=np.float32)
    assert [metric(scores, labels) for metric in METRICS] == [None, None, None]
    assert aupro(scores.reshape(1, 2, 2), labels.reshape(1, 2, 2)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc(np.zeros(3), np.zeros(2)), r"auroc: labels must be \[3\] like scores, got \[2\]"),
        (lambda: f1_max(np.zeros(0), np.zeros(0)), r"f1_max: scores must hold at least one value"),
        (
            lambda: auroc(np.zeros(2), np.array([1, 255])),
            r"labels must be boolean or 0/1, got values from 1 to 255",
        ),
        (
            lambda: auroc(np.zeros(2), np.array([0.5, 1.0])),
            r"labels must be boolean or 0/1, got values from 0.5",
        ),
        (
            lambda: aupro(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), 0.0),
            r"aupro: limit must be in \(0, 1\], got 0.0",
        ),
        (lambda: aupro(np.zeros(4), np.zeros(4)), r"aupro: maps must be \(..., H, W\), got \[4\]"),
        (lambda: summarize({}), r"summarize: results must hold at least one category"),
    ],
)
def test_wrong_inputs_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_is_named_with_its_place() -> None:
    maps, masks = tied_maps(0, 5)
    maps[2, 3, 4] = np.nan
    with pytest.raises(ValueError, match=r"aupro: maps must not be NaN, got NaN at index \(2, 3, 4\)"):
        aupro(maps, masks)
    with pytest.raises(ValueError, match=r"average_precision: scores must not be NaN, got NaN at index \(1,\)"):
        average_precision(torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))


def small_set(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    masks = torch.zeros(6, 5, 16, 16, dtype=torch.bool)
    masks[3, 1, 4:8, 4:8] = masks[4, 0, :3, 9:] = masks[5, 4, 15, 15] = True
    maps = torch.rand(masks.shape, generator=g) + 0.3 * masks
    view_scores, view_labels = maps.amax((-2, -1)), masks.any(-1).any(-1)
    return {
        "maps": maps,
        "masks": masks,
        "view_scores": view_scores,
        "view_labels": view_labels,
        "sample_scores": view_scores.amax(1),
        "sample_labels": view_labels.any(1),
    }


def test_evaluate_is_each_metric_at_each_level() -> None:
    data = small_set()
    result = evaluate(**data)
    for level, scores, labels in (
        ("pixel", "maps", "masks"),
        ("view", "view_scores", "view_labels"),
        ("sample", "sample_scores", "sample_labels"),
    ):
        s, t = data[scores].flatten().numpy(), data[labels].flatten().numpy()
        assert result[level]["auroc"] == pytest.approx(roc_auc_score(t, s), abs=1e-9)
        assert result[level]["ap"] == pytest.approx(average_precision_score(t, s), abs=1e-9)
        assert result[level]["f1_max"] == pytest.approx(sklearn_f1_max(t, s), abs=1e-9)
    expected = brute_aupro(data["maps"].flatten(0, 1).numpy(), data["masks"].flatten(0, 1).numpy(), 0.3)
    assert result["pixel"]["aupro"] == pytest.approx(expected, abs=1e-9)
    assert json.loads(json.dumps(result)) == result


def test_evaluate_without_defects_or_without_masks_still_answers() -> None:
    data = small_set()
    normal = {k: torch.zeros_like(v) if v.dtype == torch.bool else v for k, v in data.items()}
    assert all(value is None for level in evaluate(**normal).values() for value in level.values())
    unmasked = evaluate(**{**data, "masks": None})
    assert set(unmasked["pixel"].values()) == {None}
    assert unmasked["sample"] == evaluate(**data)["sample"]


@pytest.mark.parametrize("name", ["masks", "view_scores", "view_labels", "sample_scores", "sample_labels"])
def test_evaluate_names_the_input_that_does_not_fit(name: str) -> None:
    data = small_set()
    data[name] = data[name][:-1]
    with pytest.raises(ValueError, match=f"evaluate: {name} must be"):
        evaluate(**data)


def test_evaluate_needs_maps_of_samples_and_views() -> None:
    data = small_set()
    data["maps"] = data["maps"][0]
    with pytest.raises(ValueError, match=r"evaluate: maps must be \(M, V, H, W\), got \[5, 16, 16\]"):
        evaluate(**data)


def test_summary_means_over_the_categories_that_define_a_metric() -> None:
    first, second = evaluate(**small_set(0)), evaluate(**small_set(1))
    normal = small_set(2)
    third = evaluate(**{k: torch.zeros_like(v) if v.dtype == torch.bool else v for k, v in normal.items()})
    summary = summarize({"bolt": first, "nut": second, "washer": third})
    assert summary["categories"] == {"bolt": first, "nut": second, "washer": third}
    for level, values in summary["mean"].items():
        for name, value in values.items():
            assert value == pytest.approx((first[level][name] + second[level][name]) / 2, abs=1e-12)
    assert summarize({"washer": third})["mean"] == third


def test_two_million_pixels_take_seconds_and_little_memory() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 5, 224, 224), bool)
    masks[::2, 0, 40:90, 40:90] = True
    maps = rng.random(masks.shape, dtype=np.float32) + 0.2 * masks.astype(np.float32)
    view_scores, view_labels = maps.max((2, 3)), masks.any((2, 3))
    tracemalloc.start()
    start = time.perf_counter()
    result = evaluate(maps, masks, view_scores, view_labels, view_scores.max(1), view_labels.any(1))
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * maps.nbytes
    assert seconds < 5  # measured 0.2 s on two cores; the margin is for a busy machine
    assert 0.5 < result["pixel"]["auroc"] < 1
