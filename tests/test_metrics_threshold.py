"""Confusion against scikit-learn, and the threshold of the best F1 against every threshold in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from vsad.metrics import Confusion, confusion, f1_max, f1_max_threshold


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 100), levels=st.sampled_from([1, 2, 5, 1000]))
def test_the_threshold_has_the_best_f1_and_lies_between_two_scores(seed: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels, size) / 7).astype(np.float32)
    labels = rng.random(size) < rng.uniform(0.05, 0.95)
    labels[:2] = True, False
    threshold = f1_max_threshold(scores, labels)
    assert threshold is not None
    best = f1_max(scores, labels)
    assert f1_score(labels, scores >= np.float32(threshold)) == pytest.approx(best, abs=1e-12)
    counts = confusion(scores, labels, threshold)
    passed, alarms, missed, found = confusion_matrix(labels, scores >= threshold).ravel()
    assert counts == Confusion(found, missed, alarms, passed)
    assert 2 * counts.found / (2 * counts.found + counts.false_alarms + counts.missed) == pytest.approx(best)
    accepted, below = scores[scores >= threshold].min(), scores[scores < threshold]
    assert threshold == pytest.approx((accepted + below.max()) / 2 if below.size else accepted, abs=1e-6)
    higher = [t for t in np.unique(scores) if t > accepted]
    assert all(f1_score(labels, scores >= t) < best for t in higher)


def test_of_equal_f1_the_highest_threshold_is_taken() -> None:
    scores = np.array([8.0, 4.0, 2.0, 1.0])
    labels = np.array([1, 0, 0, 1])  # at 8 F1 = 2 / 3, at 1 it is 4 / 6
    assert f1_max(scores, labels) == pytest.approx(2 / 3)
    assert f1_max_threshold(scores, labels) == 6.0


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.array([2.0, 2.0]), 2.0),  # nothing lower
        (np.array([1.0, np.nextafter(1.0, 2.0)]), np.nextafter(1.0, 2.0)),  # no number between
        (np.float32([1.0, np.nextafter(np.float32(1), np.float32(2))]), np.nextafter(np.float32(1), np.float32(2))),
        (np.array([-np.inf, 3.0]), 3.0),
        (np.array([1.0, np.inf]), np.inf),
        (np.array([1e308, 1.5e308]), 1.25e308),  # the sum of the two is no number
        (np.array([-1.5e308, 1.5e308]), 0.0),
    ],
)
def test_where_no_middle_can_be_had_it_is_the_lowest_accepted_score(scores: np.ndarray, expected: float) -> None:
    labels = np.array([False, True])
    assert f1_max_threshold(scores, labels) == pytest.approx(expected, abs=0)
    assert confusion(scores, labels, expected).missed == 0


def test_a_float32_tensor_decides_alike_at_the_threshold() -> None:
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    labels = scores + 0.2 * torch.rand(1000, generator=torch.Generator().manual_seed(1)) > 0.6
    threshold = f1_max_threshold(scores, labels)
    assert threshold is not None
    counts = confusion(scores, labels, threshold)
    assert int((scores >= threshold).sum()) == counts.found + counts.false_alarms
    assert sum(float(score) >= threshold for score in scores) == counts.found + counts.false_alarms


@pytest.mark.parametrize("labels", [np.zeros(3, bool), np.ones(3, bool)])
def test_one_class_has_no_best_threshold_but_is_counted(labels: np.ndarray) -> None:
    scores = np.array([1.0, 2.0, 3.0])
    assert f1_max_threshold(scores, labels) is None
    expected = Confusion(2, 1, 0, 0) if labels.all() else Confusion(0, 0, 2, 1)
    assert confusion(scores, labels, 2.0) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion(np.zeros(2), np.zeros(2), np.nan), r"confusion: threshold must be a number, got NaN"),
        (lambda: confusion(np.zeros(2), np.zeros(3), 0.0), r"confusion: labels must be \[2\] like scores, got \[3\]"),
        (lambda: confusion(np.array([np.nan]), np.zeros(1), 0.0), r"confusion: scores must not be NaN"),
        (lambda: f1_max_threshold(np.zeros(2), np.array([0, 2])), r"f1_max_threshold: labels must be boolean or 0/1"),
        (lambda: f1_max_threshold(np.zeros(2), np.array([0, np.nan])), r"f1_max_threshold: labels must be boolean"),
        (lambda: f1_max_threshold(np.zeros(0), np.zeros(0)), r"f1_max_threshold: scores must hold at least one value"),
    ],
)
def test_wrong_inputs_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
