"""Choosing another threshold for samples that were inspected, and deciding them anew without looking again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from vsad.data import GOOD
from vsad.detection import Threshold, fit_threshold
from vsad.detection.oddity import name_odd
from vsad.metrics import f1_max_threshold
from vsad.pipeline.choice import check_rate, check_value
from vsad.pipeline.detections import Detections
from vsad.pipeline.verdicts import Verdict
from vsad.progress import SILENT, Progress

# Of the interval of a rate of false alarms, either side; and the draws that it is told by.
_OUTSIDE, _DRAWS = 0.05, 100_000


def threshold_for_rate(found: Detections, rate: float) -> Threshold:
    """The threshold that a share of good products exceeds, judged from the good samples that were inspected.

    Raises:
        ValueError: fewer than two inspected samples are known to be good, or the rate is not between 0 and 1.
    """
    check_rate(rate)
    good = _good(found)
    scores = [verdict.score for verdict in good]
    return name_odd(fit_threshold(scores, rate), scores, [verdict.id for verdict in good])


def threshold_of_best_f1(found: Detections) -> Threshold:
    """The threshold at which F1 is best on the labeled samples that were inspected.

    Raises:
        ValueError: the inspected samples are not known to be of both kinds.
    """
    known = [verdict for verdict in _numbers(found) if verdict.label is not None]
    labels = np.array([verdict.label != GOOD for verdict in known])
    value = f1_max_threshold(np.array([verdict.score for verdict in known]), labels) if known else None
    if value is None:
        raise ValueError(
            f"{found.folder}: must hold good and defective samples for the best F1, got one kind or no labels; inspect "
            "a test split, or choose by --false-alarms"
        )
    return threshold_at(found, value)


def threshold_at(found: Detections, value: float) -> Threshold:
    """A given threshold, and what it means for the good samples that were inspected.

    With k of n good samples at or above it, the share of good products lies between Beta(k, n - k + 1) and
    Beta(k + 1, n - k), each at 95 %, whatever the distribution (Clopper and Pearson 1934); ``asked`` is (k + 1/2) /
    (n + 1), the mean of Jeffreys' Beta(k + 1/2, n - k + 1/2). Of a threshold that was chosen by these very samples, as
    that of the best F1, both are a little too good.

    Raises:
        ValueError: the value is not finite.
    """
    check_value(value)
    good = np.array([verdict.score for verdict in _numbers(found) if verdict.label == GOOD])
    k, n = int((good >= value).sum()), len(good)
    draw = np.random.default_rng(0).beta
    low = float(np.quantile(draw(k, n - k + 1, _DRAWS), _OUTSIDE)) if k else 0.0
    high = float(np.quantile(draw(k + 1, n - k, _DRAWS), 1 - _OUTSIDE)) if k < n else 1.0
    return Threshold(value, (value, value), (k + 0.5) / (n + 1), (low, high), n)


def decide_anew(folder: Path, threshold: Threshold, chosen: str, progress: Progress = SILENT) -> Detections:
    """Decide every sample of a finished detection by another threshold: verdicts, regions and overlays.

    Where there are no maps, verdicts follow the threshold all the same; regions and overlays, which cannot, are left
    out, and a warning says so.

    Args:
        folder: of the detection.
        threshold: the new one.
        chosen: how, in words.
        progress: told of every sample.
    """
    names = [*Detections.load(folder).rows]
    with Detections.reopen(folder, threshold.value, chosen) as out:
        for name in progress.track(names, "decide"):
            out.keep(name)
        out.finish(names)
    out.warn_of_maps()
    return Detections.load(folder)


def _numbers(found: Detections) -> list[Verdict]:
    """The verdicts that a threshold decides: what has no number for a score is a defect at any."""
    return [verdict for verdict in found.verdicts.found if math.isfinite(verdict.score)]


def _good(found: Detections) -> list[Verdict]:
    good = [verdict for verdict in _numbers(found) if verdict.label == GOOD]
    if len(good) < 2:
        raise ValueError(
            f"{found.folder}: must hold at least 2 samples that are known to be good, got {len(good)}; inspect a "
            "test split with good samples, or give the threshold by --value"
        )
    return good
