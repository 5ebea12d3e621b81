"""The threshold gives the rate that was asked for, from few samples too, and says how sure it is."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from vsad.detection import fit_threshold, warn_of_extrapolation
from vsad.detection.threshold import Threshold
from vsad.pipeline import threshold_at
from vsad.pipeline.verdicts import Verdict, Verdicts

TAILS = {
    "exponential": lambda rng, size: rng.exponential(size=size),
    "gumbel": lambda rng, size: rng.gumbel(size=size),
    "maxima of a normal": lambda rng, size: rng.normal(size=(*np.atleast_1d(size), 50)).max(-1),
    "log-gumbel, skewed": lambda rng, size: np.exp(0.7 * rng.gumbel(size=size)),
    "log-gumbel": lambda rng, size: np.exp(0.4 * rng.gumbel(size=size)),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("samples", [10, 20, 40, 100])
def test_the_rate_is_what_was_asked_on_average(tail, samples):
    rng = np.random.default_rng(samples)
    thresholds = [fit_threshold(scores, 0.05) for scores in TAILS[tail](rng, (150, samples))]
    fresh = np.sort(TAILS[tail](rng, 20_000))
    rates = 1 - np.searchsorted(fresh, [t.value for t in thresholds]) / len(fresh)
    assert 0.05 / 1.6 < rates.mean() < 0.05 * 1.6


# A few samples need not show that every fifth product scores much higher; maxima of a uniform have an upper end.
HARD = TAILS | {
    "a fifth is odd": lambda rng, size: rng.gumbel(size=size) + 8 * (rng.random(size) < 0.2),
    "pareto": lambda rng, size: rng.pareto(1, size=size),
    "maxima of a uniform": lambda rng, size: rng.random((*np.atleast_1d(size), 50)).max(-1),
}


@pytest.mark.parametrize("tail", HARD)
@pytest.mark.parametrize("samples", [3, 8, 30])
def test_the_rate_lies_in_the_told_interval_whatever_the_distribution(tail, samples):
    rng = np.random.default_rng(samples)
    thresholds = [fit_threshold(scores, 0.05) for scores in HARD[tail](rng, (100, samples))]
    fresh = np.sort(HARD[tail](rng, 20_000))
    rates = 1 - np.searchsorted(fresh, [t.value for t in thresholds]) / len(fresh)
    assert np.mean([t.rate[0] <= rate <= t.rate[1] for t, rate in zip(thresholds, rates)]) > 0.85


def leave_one_out(rng, samples):
    """Scores of samples of 200 pixels, each by mean and deviation of the others, and of 200 new ones by those of all.

    Of two samples, each is scored by both, as in ``vsad.detection.level``.
    """
    x, new = rng.normal(size=(samples, 200)), rng.normal(size=(200, 200))

    def highest(values, known):
        return ((values - known.mean(0)) / known.std(0, ddof=1)).max(-1)

    own = [highest(x[i], np.delete(x, i, 0) if samples > 2 else x) for i in range(samples)]
    return own, highest(new, x)


@pytest.mark.parametrize("samples", [2, 3, 5, 8])
def test_the_interval_holds_where_few_samples_tell_the_scale_of_scores_too(samples):
    rng = np.random.default_rng(samples)
    held = []
    for _ in range(60):
        own, new = leave_one_out(rng, samples)
        threshold = fit_threshold(own, 0.05)
        held.append(threshold.rate[0] <= np.mean(new >= threshold.value) <= threshold.rate[1])
    assert np.mean(held) > 0.8


def test_two_samples_do_not_tell_the_rate():
    own, new = leave_one_out(np.random.default_rng(0), 2)
    threshold = fit_threshold(own, 0.05)
    assert np.mean(new >= threshold.value) == 1  # each of two is scored by statistics that know it
    assert not threshold.known
    assert threshold.describe().endswith(
        "from 2 good samples: 5.0% false alarms asked, but so few samples cannot tell how many will come"
    )
    with pytest.warns(UserWarning, match=r"cannot be known from 2 good samples: .*; 19 samples or more would support"):
        warn_of_extrapolation(threshold)
    assert "; 3 samples or more would support it" in fit_threshold(own, 0.4).doubt  # for which two scores would do


def test_the_rate_is_exact_for_gumbel_scores():
    rng = np.random.default_rng(0)
    for samples in (2, 3, 10, 30):
        thresholds = [fit_threshold(scores, 0.05).value for scores in rng.gumbel(size=(600, samples))]
        assert -np.expm1(-np.exp(-np.array(thresholds))).mean() == pytest.approx(0.05, abs=0.012), samples


def test_the_rate_is_exact_for_any_scores_where_there_are_many():
    rng = np.random.default_rng(0)
    thresholds = [fit_threshold(scores, 0.05).value for scores in rng.uniform(size=(400, 150)) ** 8]
    assert (1 - np.array(thresholds) ** (1 / 8)).mean() == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize("asked", [0.01, 0.2, 0.6, 0.95])
def test_any_rate_can_be_asked_for(asked):
    rng = np.random.default_rng(1)
    fits = [fit_threshold(scores, asked) for scores in rng.gumbel(size=(300, 30))]
    assert np.mean([-math.expm1(-math.exp(-t.value)) for t in fits]) == pytest.approx(asked, rel=0.15)
    for t in fits[:20]:
        assert t.rate[0] < t.rate[1]
        assert t.interval[0] < t.interval[1]


def test_what_cannot_be_supported_is_said():
    with pytest.warns(UserWarning, match=r"cannot be supported by 10 good samples.*19 samples or more would"):
        warn_of_extrapolation(fit_threshold(np.arange(10.0), 0.05))
    supported = fit_threshold(np.arange(19.0), 0.05)
    assert supported.supported
    warn_of_extrapolation(supported)
    single = fit_threshold([3.0], 0.05)
    assert single.value == 3
    assert single.rate == (0, 1)
    with pytest.raises(ValueError, match="scores must hold at least one good sample's"):
        fit_threshold([], 0.05)


def test_a_threshold_is_described_in_a_line():
    threshold = Threshold(2.351, (1.9, 4.1), 0.05, (0.012, 0.125), 19)
    assert threshold.describe() == (
        "2.35 (90% interval 1.9 to 4.1), from 19 good samples: 5.0% false alarms asked, 1.2% to 12.5% to be expected"
    )
    assert threshold._replace(rate=(0.0, 0.145)).describe().endswith("asked, up to 14.5% to be expected")


def test_what_is_told_of_the_rate_of_few_samples_is_the_most_that_it_may_be():
    for samples in (3, 10, 19):  # with 95 % none of n products exceeds what a share of 1 - 0.05 ** (1 / n) would
        threshold = fit_threshold(np.arange(samples) % 7 + np.linspace(0, 1, samples), 0.05)
        assert threshold.rate == (0, pytest.approx(1 - 0.05 ** (1 / samples), abs=0.01))


def test_equal_scores_are_exceeded_by_none_of_them():
    assert fit_threshold([2.0] * 8, 0.05).value >= 2


def test_scores_must_be_numbers():
    for scores, message in (([], "at least one good sample's, got none"), ([1.0, float("nan")], "numbers, got NaN")):
        with pytest.raises(ValueError, match=message):
            fit_threshold(scores, 0.05)


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("samples", [5, 40])
def test_a_given_threshold_s_rate_lies_in_the_told_interval(share, samples):
    """As often at least as is told, whatever was chosen: the words are those of a threshold by ``--false-alarms``."""
    rng, held = np.random.default_rng(samples), []
    for _ in range(200):
        good = [Verdict(str(i), "good", score, False) for i, score in enumerate(rng.random(samples))]
        least, most = threshold_at(SimpleNamespace(verdicts=Verdicts((), 0.0, good)), 1 - share).rate
        held.append(least <= share <= most)
    assert np.mean(held) >= 0.88


def test_a_given_threshold_is_told_with_exact_bounds():
    good = [Verdict(str(i), "good", float(i), False) for i in range(20)]
    none, some, every = (
        threshold_at(SimpleNamespace(verdicts=Verdicts((), 0.0, good)), value) for value in (30.0, 18.0, -1.0)
    )
    assert none.rate == (0, pytest.approx(1 - 0.05 ** (1 / 20), abs=0.002))
    assert some.rate == (pytest.approx(0.0181, abs=0.002), pytest.approx(0.2826, abs=0.004))  # of 2 of 20
    assert every.rate == (pytest.approx(0.05 ** (1 / 20), abs=0.002), 1)
    assert some.describe().startswith("18; 1.8% to 28.")
    nothing = threshold_at(SimpleNamespace(verdicts=Verdicts((), 0.0, [])), 1.0)
    assert (nothing.rate, nothing.describe()) == ((0, 1), "1")
