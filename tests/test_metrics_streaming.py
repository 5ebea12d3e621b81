"""Evaluation sample by sample: the metrics of all samples at once, and nothing taken of a sample that is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from vsad.metrics import Evaluation, PixelScores, aupro, auroc, evaluate


def station(samples: int = 7, views: int = 3, side: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """Maps with ties and defects in every other sample, the third view never among them."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((samples, views, side, side), bool)
    masks[::2, 0, 2:6, 3:9] = masks[::4, 1, 10:12, 10:12] = True
    maps = (rng.integers(0, 30, masks.shape) + 6 * masks).astype(np.float32) / 8
    view_scores, view_labels = maps.max((2, 3)), masks.any((2, 3))
    return {
        "maps": maps,
        "masks": masks,
        "view_scores": view_scores,
        "view_labels": view_labels,
        "sample_scores": view_scores.max(1),
        "sample_labels": view_labels.any(1),
    }


def gather(data: dict[str, np.ndarray], evaluation: Evaluation | None = None) -> Evaluation:
    evaluation = evaluation or Evaluation()
    for row in zip(*data.values()):
        evaluation.add(*row)
    return evaluation


def test_one_sample_at_a_time_is_all_at_once() -> None:
    data = station()
    evaluation = gather(data)
    assert len(evaluation) == 7
    assert evaluation.result() == evaluate(**data)


def test_it_answers_at_any_time_and_goes_on() -> None:
    first, second = station(seed=1), station(seed=2)
    evaluation = gather(first)
    assert evaluation.result() == evaluate(**first)
    gather(second, evaluation)
    both = evaluate(**{name: np.concatenate([first[name], second[name]]) for name in first})
    assert evaluation.result() == evaluation.result() == both


def test_tensors_numbers_and_integer_masks_are_taken() -> None:
    data = station()
    evaluation = Evaluation()
    for maps, masks, scores, labels, score, label in zip(*data.values()):
        evaluation.add(
            torch.from_numpy(maps), torch.from_numpy(masks).long(), torch.from_numpy(scores), labels.astype(int),
            float(score), int(label),
        )  # fmt: skip
    assert evaluation.result() == evaluate(**data)


def test_float64_maps_keep_their_order_beside_float32_ones() -> None:
    pixels = PixelScores()
    mask = np.array([[[True, False]]])
    pixels.add(np.float32([[[0.5, 0.25]]]), mask)
    pixels.add(np.array([[[1.0 + 1e-12, 1.0]]]), mask)
    curve = pixels.curve()
    assert curve is not None
    # Of the four pairs only 0.5 < 1 is wrong; in float32 the other pair of the second image would be a tie.
    assert float(curve.curve.auroc()) == 0.75


def test_pixel_scores_are_the_pixels_of_all_images_whatever_their_sizes() -> None:
    rng = np.random.default_rng(0)
    pixels, scores, labels = PixelScores(), [], []
    for height, width in ((8, 9), (1, 1), (30, 7)):
        maps = rng.random((2, height, width)).astype(np.float32)
        masks = rng.random(maps.shape) < 0.3
        pixels.add(maps, masks)
        scores.append(maps.ravel())
        labels.append(masks.ravel())
    curve = pixels.curve()
    assert curve is not None
    assert float(curve.curve.auroc()) == auroc(np.concatenate(scores), np.concatenate(labels))


def test_pixels_without_known_masks_and_views_without_known_labels_count_nowhere() -> None:
    data = station()
    part = {name: values[:5] for name, values in data.items()}
    evaluation = gather(part)
    for maps, _, view_scores, _, score, label in zip(*(values[5:] for values in data.values())):
        evaluation.add(maps, None, view_scores, None, score, label)
    result, known = evaluation.result(), evaluate(**part)
    assert result["pixel"] == known["pixel"]
    assert result["view"] == known["view"]
    assert result["sample"] == evaluate(**data)["sample"]
    assert evaluation.intervals()["view"] == gather(part).intervals()["view"]


def test_data_that_do_not_tell_views_have_no_view_level() -> None:
    data = station()
    result = evaluate(**{**data, "view_labels": None})
    assert set(result["view"].values()) == {None}
    assert result["sample"] == evaluate(**data)["sample"]


def test_a_result_is_the_callers_own() -> None:
    evaluation = gather(station())
    first = evaluation.result()
    first["pixel"]["auroc"] = None
    assert evaluation.result() == evaluate(**station())


def test_of_nothing_every_value_is_none() -> None:
    evaluation = Evaluation()
    assert {value for level in evaluation.result().values() for value in level.values()} == {None}
    assert {value for level in evaluation.intervals().values() for value in level.values()} == {None}
    assert PixelScores().curve() is None
    normal = PixelScores()
    normal.add(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool))
    assert normal.curve() is None


def changed(**changes: object) -> dict[str, object]:
    first = {name: values[0] for name, values in station().items()}
    return {
        "maps": first["maps"],
        "masks": first["masks"],
        "view_scores": first["view_scores"],
        "view_labels": first["view_labels"],
        "sample_score": first["sample_scores"],
        "sample_label": first["sample_labels"],
        **changes,
    }


NAN_MAP = station()["maps"][0].copy()
NAN_MAP[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": np.zeros((20, 20))}, r"maps must be \(V, H, W\), got \[20, 20\]; add one sample at a time"),
        ({"maps": NAN_MAP}, r"maps must not be NaN, got NaN at index \(1, 2, 3\)"),
        ({"maps": NAN_MAP, "masks": None}, r"maps must not be NaN, got NaN at index \(1, 2, 3\)"),
        ({"maps": np.zeros((3, 0, 4)), "masks": None}, r"maps must hold at least one pixel, got \[3, 0, 4\]"),
        ({"masks": np.zeros((3, 10, 10), bool)}, r"masks must be \[3, 20, 20\] like maps, got \[3, 10, 10\]; resize"),
        ({"masks": np.full((3, 20, 20), 255)}, r"masks must be boolean or 0/1, got values from 255 to 255; binarize"),
        ({"view_scores": np.zeros(2)}, r"view_scores must be \[3\], one for each view of maps, got \[2\]"),
        ({"view_scores": np.array([0, np.nan, 0])}, r"view_scores must not be NaN, got NaN at index \(1,\)"),
        ({"view_labels": np.array([0, 1, 2])}, r"view_labels must be boolean or 0/1, got values from 0 to 2"),
        ({"sample_score": np.zeros(1)}, r"sample_score must be a single value, got \[1\]"),
        ({"sample_score": float("nan")}, r"sample_score must not be NaN, got NaN; look"),
        ({"sample_label": 0.5}, r"sample_label must be boolean or 0/1, got values from 0.5"),
        (
            {"maps": np.zeros((2, 4, 4)), "masks": None, "view_scores": np.zeros(2), "view_labels": None},
            r"maps must be of 3 views as before, got 2",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_of_it_is_taken(changes: dict[str, object], message: str) -> None:
    data = station()
    evaluation = gather(data)
    with pytest.raises(ValueError, match=r"Evaluation.add \(sample 7, counting from 0\): " + message):
        evaluation.add(**changed(**changes))
    assert len(evaluation) == 7
    assert evaluation.result() == evaluate(**data)


def test_evaluate_refuses_no_samples() -> None:
    with pytest.raises(ValueError, match=r"evaluate: maps must hold at least one sample, got \[0, 2, 4, 4\]"):
        evaluate(*(np.zeros(shape) for shape in ((0, 2, 4, 4), (0, 2, 4, 4), (0, 2), (0, 2), (0,), (0,))))


def test_aupro_and_evaluate_are_one_path() -> None:
    data = station()
    assert evaluate(**data)["pixel"]["aupro"] == aupro(data["maps"], data["masks"])


_MANY = """
import resource, time
import numpy as np
from vsad.metrics import Evaluation
rng = np.random.default_rng(0)
masks = np.zeros((5, 256, 256), bool)
masks[:3, 40:80, 60:100] = True
evaluation, before = Evaluation(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i in range(61):
    mask = masks * (i % 2 == 1)
    maps = rng.random(mask.shape, dtype=np.float32) + np.float32(0.2) * mask
    scores = maps.max((1, 2))
    evaluation.add(maps, mask, scores, mask.any((1, 2)), scores.max(), mask.any())
start = time.process_time()
evaluation.result(), evaluation.curves()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is in kilobytes on Linux only")
def test_twenty_million_pixels_take_few_bytes_each_and_seconds() -> None:
    out = subprocess.run([sys.executable, "-c", _MANY], capture_output=True, text=True, check=True).stdout
    kilobytes, seconds = map(float, out.split())
    assert 1024 * kilobytes < 8 * 61 * 5 * 256 * 256  # measured 4.6 bytes a pixel
    assert seconds < 5  # measured 0.2 s of one core; the margin is for processors that sort more slowly
