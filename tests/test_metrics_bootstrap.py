"""Bootstrap intervals against the plain loop over resampled test sets, and against the truth they are to hold."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from vsad.metrics import Evaluation, auroc, average_precision, bootstrap, evaluate, f1_max, summarize

METRICS = {"auroc": auroc, "ap": average_precision, "f1_max": f1_max}


def views(samples: int, count: int, seed: int, levels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties; views of one sample resemble each other, half of the samples show a defect in some views."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((samples, count)) < 0.5) & (np.arange(samples) % 2 == 0)[:, None]
    labels[0, 0] = True
    scores = rng.normal(size=(samples, 1)) + 0.5 * rng.normal(size=labels.shape) + 1.5 * labels
    return (np.round(scores * levels / 8) / levels).astype(np.float32), labels


def resampled(scores: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and labels of every draw, written out: all draws of the samples with a positive, then of the others."""
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels.any(1)), np.flatnonzero(~labels.any(1))]
    chosen = [part[rng.integers(len(part), size=(draws, len(part)))] for part in strata]
    return [(scores[rows].ravel(), labels[rows].ravel()) for rows in np.concatenate(chosen, axis=1)]


@pytest.mark.parametrize(("count", "confidence"), [(1, 0.95), (4, 0.95), (3, 0.5)])
def test_intervals_are_those_of_the_plain_loop(count: int, confidence: float) -> None:
    scores, labels = views(31, count, seed=count)
    found = bootstrap(scores, labels, draws=60, confidence=confidence, seed=7)
    sets = resampled(scores, labels, 60, seed=7)
    plain = {
        "auroc": [roc_auc_score(t, s) for s, t in sets],
        "ap": [average_precision_score(t, s) for s, t in sets],
        "f1_max": [f1_max(s, t) for s, t in sets],
    }
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    for name, values in plain.items():
        assert found[name] == pytest.approx(tuple(np.quantile(values, ends)), abs=1e-9)


def test_the_interval_holds_the_metric_and_narrows_with_more_samples() -> None:
    widths = []
    for samples in (40, 1000):
        scores, labels = views(samples, 5, seed=3)
        found = bootstrap(scores, labels)
        for name, metric in METRICS.items():
            low, high = found[name]
            assert 0 <= low < metric(scores, labels) < high <= 1
        widths.append(found["auroc"][1] - found["auroc"][0])
    assert 3 < widths[0] / widths[1] < 8  # the root of 25 is 5


def test_views_of_a_sample_move_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) < 30
    scores = rng.normal(size=60) + labels
    alone = bootstrap(scores, labels)
    # Five views that say the same are no more evidence than one; five parts that say it would be.
    same = bootstrap(np.repeat(scores[:, None], 5, 1), np.repeat(labels[:, None], 5, 1))
    for name, interval in alone.items():
        assert same[name] == pytest.approx(interval, abs=1e-9)
    apart = bootstrap(np.repeat(scores, 5), np.repeat(labels, 5))["auroc"]
    assert apart[1] - apart[0] < 0.6 * (alone["auroc"][1] - alone["auroc"][0])


def test_nineteen_in_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) < 40
    truth = 0.7602499389065233  # the normal distribution at 1 / sqrt(2)
    held = 0
    for seed in range(300):
        low, high = bootstrap(rng.normal(size=80) + labels, labels, draws=300, seed=seed)["auroc"]
        held += low <= truth <= high
    assert 0.91 < held / 300 < 0.98


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    scores, labels = views(50, 2, seed=0)
    first = bootstrap(scores, labels, seed=1)
    assert bootstrap(torch.from_numpy(scores), torch.from_numpy(labels), seed=1) == first
    assert bootstrap(scores, labels, seed=2) != first


def test_perfect_scores_have_an_interval_of_no_width() -> None:
    labels = np.arange(20) < 10
    assert set(bootstrap(labels.astype(np.float32), labels).values()) == {(1.0, 1.0)}


@pytest.mark.parametrize("labels", [np.zeros((4, 2), bool), np.ones((4, 2), bool)])
def test_one_class_is_not_defined(labels: np.ndarray) -> None:
    assert bootstrap(np.zeros((4, 2)), labels) == {"auroc": None, "ap": None, "f1_max": None}


def test_draws_of_one_class_are_left_out() -> None:
    # Both samples have a positive, and a draw of the first alone holds no negative.
    scores, labels = np.array([[3.0, 2.0], [1.0, 4.0]]), np.array([[1, 1], [1, 0]])
    values = {auroc(scores, labels), auroc(scores[[1, 1]], labels[[1, 1]])}
    assert bootstrap(scores, labels, confidence=0.999)["auroc"] == (min(values), max(values))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t: bootstrap(s, t, draws=0), r"bootstrap: draws must be at least 1, got 0"),
        (lambda s, t: bootstrap(s, t, confidence=95), r"bootstrap: confidence must be in \(0, 1\), got 95"),
        (lambda s, t: bootstrap(s[None], t[None]), r"bootstrap: scores must be \(S,\) or \(S, V\), got \[1, 4, 2\]"),
        (lambda s, t: bootstrap(s, t[:, :1]), r"bootstrap: labels must be \[4, 2\] like scores, got \[4, 1\]"),
        (lambda s, t: bootstrap(s, t + 2), r"bootstrap: labels must be boolean or 0/1"),
        (lambda s, t: bootstrap(s * np.nan, t), r"bootstrap: scores must not be NaN"),
    ],
)
def test_wrong_inputs_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.zeros((4, 2)), np.zeros((4, 2), int))


def test_an_evaluation_has_intervals_of_views_and_samples() -> None:
    scores, labels = views(30, 3, seed=5)
    evaluation = Evaluation()
    for row, truth in zip(scores, labels):
        evaluation.add(row[:, None, None], truth[:, None, None], row, truth, row.max(), truth.any())
    found = evaluation.intervals(draws=100, seed=4)
    assert found["view"] == bootstrap(scores, labels, draws=100, seed=4)
    assert found["sample"] == bootstrap(scores.max(1), labels.any(1), draws=100, seed=4)
    summary = summarize({"bolt": evaluation.result()}, {"bolt": found})
    assert summary["categories"] == {"bolt": evaluation.result()}
    assert json.loads(json.dumps(summary))["intervals"]["bolt"]["view"]["auroc"] == list(found["view"]["auroc"])


def test_a_summary_without_intervals_has_none_and_unknown_categories_are_named() -> None:
    result = evaluate(*(np.zeros(shape) for shape in ((1, 2, 4, 4), (1, 2, 4, 4), (1, 2), (1, 2), (1,), (1,))))
    assert "intervals" not in summarize({"bolt": result})
    with pytest.raises(ValueError, match=r"intervals must be of the results' categories \['bolt'\], got \['nut'\]"):
        summarize({"bolt": result}, {"nut": {}})


def test_two_thousand_samples_take_a_thousand_draws_in_seconds() -> None:
    scores, labels = views(2000, 5, seed=1)
    start = time.process_time()
    bootstrap(scores, labels)
    views_s = time.process_time() - start
    bootstrap(scores.max(1), labels.any(1))
    samples_s = time.process_time() - start - views_s
    assert samples_s < 2  # measured 0.15 s of one core, and 0.6 s for the views
    assert views_s < 4
