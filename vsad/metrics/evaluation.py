"""All metrics of a category at pixel, view and sample level, from one sample after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vsad.metrics.arrays import Array, as_numpy, checked_labels, ranked_values
from vsad.metrics.bootstrap import bootstrap
from vsad.metrics.curve import Curve
from vsad.metrics.pixels import PixelScores, checked_maps, checked_masks
from vsad.metrics.points import CurvePoints, pro_points, roc_points
from vsad.metrics.summary import LEVELS, Intervals, Metrics, Result

# The false-positive rate up to which AUPRO integrates.
PRO_LIMIT = 0.3


@dataclass(frozen=True)
class Curves:
    """What a report draws; None where it is not defined.

    Args:
        sample: recall over the false-positive rate (ROC), of samples.
        view: of views.
        pixel: of pixels.
        pro: mean overlap of the defect regions over the pixels' false-positive rate, up to 0.3 as AUPRO has it.
    """

    sample: CurvePoints | None
    view: CurvePoints | None
    pixel: CurvePoints | None
    pro: CurvePoints | None


class Evaluation:
    """Metrics of one category, gathered sample by sample: no map is kept, only what ``PixelScores`` keeps of it.

    Example:
        >>> evaluation = Evaluation()
        >>> for height, defect in ((1.0, False), (2.0, True)):
        ...     maps = np.full((1, 4, 4), height)
        ...     evaluation.add(maps, maps > 1, maps.max((1, 2)), np.array([defect]), height, defect)
        >>> evaluation.result()["sample"]["auroc"]
        1.0
    """

    def __init__(self) -> None:
        self._pixels = PixelScores()
        self._views: int | None = None
        self._view_scores: list[np.ndarray] = []
        self._view_labels: list[np.ndarray] = []
        self._sample_scores: list[float] = []
        self._sample_labels: list[bool] = []
        self._measured: tuple[Metrics, CurvePoints | None, CurvePoints | None] | None = None

    def __len__(self) -> int:
        return len(self._sample_scores)

    def add(
        self,
        maps: Array,
        masks: Array | None,
        view_scores: Array,
        view_labels: Array | None,
        sample_score: Array | float,
        sample_label: Array | bool,
    ) -> None:
        """Take a further sample; tensors may lie on any device.

        Args:
            maps: ``(V, H, W)`` anomaly scores of its views, of the same V in every sample.
            masks: ``(V, H, W)`` boolean or 0/1, True = defect, all False for a normal sample. None where they are not
                known: the sample's pixels then count nowhere.
            view_scores: ``(V,)``; usually the maximum of the view's map.
            view_labels: ``(V,)``, True where the view shows a defect, read from the mask at its original size. None
                where they are not known: the sample's views then count nowhere.
            sample_score: one number; usually the maximum over views.
            sample_label: True where any view shows a defect.

        Raises:
            ValueError: a shape does not fit, a score is NaN, or a label is not 0 or 1. The sample is not taken then.
        """
        op = f"Evaluation.add (sample {len(self)}, counting from 0)"
        if np.ndim(maps) != 3:
            raise ValueError(f"{op}: maps must be (V, H, W), got {list(np.shape(maps))}; add one sample at a time")
        scores = checked_maps(op, maps)
        defects = None if masks is None else checked_masks(op, masks, scores)
        views = len(scores)
        if self._views not in (None, views):
            raise ValueError(
                f"{op}: maps must be of {self._views} views as before, got {views}; evaluate other views apart"
            )
        of_views = _numbers(op, "view_scores", view_scores, (views,))
        of_sample = _numbers(op, "sample_score", sample_score, ())
        label = _labels(op, "sample_label", sample_label, ())
        labels = None if view_labels is None else _labels(op, "view_labels", view_labels, (views,))

        self._views, self._measured = views, None
        if defects is not None:
            self._pixels.add_checked(scores, defects)
        if labels is not None:
            self._view_scores.append(of_views)
            self._view_labels.append(labels)
        self._sample_scores.append(float(of_sample))
        self._sample_labels.append(bool(label))

    def result(self) -> Result:
        """The metrics of what was added so far.

        Returns:
            {"pixel": {"auroc", "ap", "f1_max", "aupro"}, "view": {"auroc", "ap", "f1_max"}, "sample": {as view}}.
            A value is None (null in JSON) where it is not defined: only one class at that level, or no masks.
        """
        pixel, _, _ = self._pixel_level()
        return {"pixel": {**pixel}, "view": _metrics(self._view_curve()), "sample": _metrics(self._sample_curve())}

    def intervals(self, *, draws: int = 1000, confidence: float = 0.95, seed: int = 0) -> Intervals:
        """Bound the metrics of views and of samples; see ``bootstrap``.

        Returns:
            {"view": {"auroc": (low, high), "ap", "f1_max"}, "sample": {as view}}; None as in ``result``.
        """
        levels = {
            "view": (self._view_scores, self._view_labels),
            "sample": (self._sample_scores, self._sample_labels),
        }
        return {
            level: bootstrap(np.array(scores), np.array(labels), draws=draws, confidence=confidence, seed=seed)
            if scores
            else dict.fromkeys(LEVELS[level])
            for level, (scores, labels) in levels.items()
        }

    def curves(self) -> Curves:
        """ROC and PRO curves of what was added so far, each of at most 200 points.

        The line lies within a thousandth of the picture's side of the curve. Where 200 points are too few for that,
        the tolerance is doubled until they are not.
        """
        _, pixel, pro = self._pixel_level()
        return Curves(_roc(self._sample_curve()), _roc(self._view_curve()), pixel, pro)

    def _sample_curve(self) -> Curve | None:
        return Curve.of(np.array(self._sample_scores), np.array(self._sample_labels, bool))

    def _view_curve(self) -> Curve | None:
        if not self._view_scores:
            return None
        return Curve.of(np.concatenate(self._view_scores), np.concatenate(self._view_labels))

    def _pixel_level(self) -> tuple[Metrics, CurvePoints | None, CurvePoints | None]:
        """Metrics, ROC and PRO, made once of the curve, which may be larger than the maps and is not kept."""
        if self._measured is None:
            pixels = self._pixels.curve()
            if pixels is None:
                self._measured = dict.fromkeys(LEVELS["pixel"]), None, None
            else:
                metrics = {**_metrics(pixels.curve), "aupro": pixels.aupro(PRO_LIMIT)}
                pro = pro_points(pixels.curve, pixels.overlap, PRO_LIMIT)
                self._measured = metrics, roc_points(pixels.curve), pro
        return self._measured


def evaluate(
    maps: Array,
    masks: Array | None,
    view_scores: Array,
    view_labels: Array | None,
    sample_scores: Array,
    sample_labels: Array,
) -> Result:
    """All metrics of one category, at the three levels. ``Evaluation`` takes the same sample by sample.

    Args:
        maps: (M, V, H, W) anomaly scores of M samples seen in V views.
        masks: (M, V, H, W) boolean, True = defect; None where the data have no masks.
        view_scores: (M, V); usually the maximum of the view's map.
        view_labels: (M, V), True where the view shows a defect, read from the mask at its original size; None where the
            data do not tell.
        sample_scores: (M,); usually the maximum over views.
        sample_labels: (M,), True where any view shows a defect.

    Returns:
        As ``Evaluation.result``.

    Raises:
        ValueError: a shape does not fit the others, a score is NaN, or a label is not 0 or 1.
    """
    if maps.ndim != 4:
        raise ValueError(f"evaluate: maps must be (M, V, H, W), got {list(maps.shape)}; add the missing axes")
    m, v = maps.shape[:2]
    for name, value, shape in (
        ("masks", masks, tuple(maps.shape)),
        ("view_scores", view_scores, (m, v)),
        ("view_labels", view_labels, (m, v)),
        ("sample_scores", sample_scores, (m,)),
        ("sample_labels", sample_labels, (m,)),
    ):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(
                f"evaluate: {name} must be {list(shape)}, got {list(value.shape)}; maps hold {m} samples of {v} views"
            )
    if not m:
        raise ValueError(f"evaluate: maps must hold at least one sample, got {list(maps.shape)}; check the test set")
    evaluation = Evaluation()
    for i in range(m):
        truth = (None if masks is None else masks[i], None if view_labels is None else view_labels[i])
        evaluation.add(maps[i], truth[0], view_scores[i], truth[1], sample_scores[i], sample_labels[i])
    return evaluation.result()


def _metrics(curve: Curve | None) -> Metrics:
    if curve is None:
        return dict.fromkeys(LEVELS["sample"])
    found = {"auroc": curve.auroc(), "ap": curve.average_precision(), "f1_max": curve.f1().max()}
    return {name: float(value) for name, value in found.items()}


def _roc(curve: Curve | None) -> CurvePoints | None:
    return None if curve is None else roc_points(curve)


def _numbers(op: str, name: str, value: Array | float, shape: tuple[int, ...]) -> np.ndarray:
    numbers = _shaped(op, name, value, shape)
    return ranked_values(op, numbers.astype(np.float64), name)


def _labels(op: str, name: str, value: Array | bool, shape: tuple[int, ...]) -> np.ndarray:
    return checked_labels(op, _shaped(op, name, value, shape), name)


def _shaped(op: str, name: str, value: Array | float, shape: tuple[int, ...]) -> np.ndarray:
    array = as_numpy(value)
    if array.shape != shape:
        rule = f"{list(shape)}, one for each view of maps" if shape else "a single value"
        raise ValueError(f"{op}: {name} must be {rule}, got {list(array.shape)}; give those of this sample")
    return array
