"""What a program may hand a detector: converted where it says what it holds, else refused in words; NaN is no pass."""

import math

import numpy as np
import pytest
import torch

from tests.test_detector_sizes import fitted, station
from vsad.detection import Detection, is_blind, is_defect


@pytest.fixture(scope="module")
def judged():
    images, rig = station(64, 80)
    detector = fitted(images, rig)
    return detector, images[1], float(detector(images[1]).sample_score)


@pytest.mark.parametrize(
    ("convert", "tolerance"),
    [
        (lambda x: x.double(), 1e-5),
        (lambda x: x.half(), 0.1),
        (lambda x: x.bfloat16(), 0.5),
        (lambda x: (255 * x).round().byte(), 0.1),
        (lambda x: (255 * x).round().byte().numpy(), 0.1),
        (lambda x: x.numpy(), 1e-6),
        (lambda x: np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1], 1e-6),  # negative strides
        (lambda x: x.contiguous(memory_format=torch.channels_last), 1e-4),
        (lambda x: x.clone().requires_grad_(), 1e-6),
    ],
)
def test_what_says_what_it_holds_is_converted(judged, convert, tolerance):
    detector, images, score = judged
    found = detector(convert(images))
    assert float(found.sample_score) == pytest.approx(score, abs=tolerance)
    assert found.maps.dtype == torch.float32
    assert not found.maps.requires_grad


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda x: 255 * x, ValueError, "in [0, 1], got 0 to"),
        (lambda x: 2 * x - 1, ValueError, "in [0, 1], got -1"),
        (lambda x: torch.full_like(x, torch.nan), ValueError, "must be finite"),
        (lambda x: x.index_fill(3, torch.tensor([7]), torch.nan), ValueError, "must be finite"),
        (lambda x: x.index_fill(3, torch.tensor([7]), torch.inf), ValueError, "must be finite"),
        (lambda x: x[None], ValueError, "must be [2 3 64 80], got [1, 2, 3, 64, 80]"),
        (lambda x: x.movedim(1, -1), ValueError, "must be [2 3 64 80], got [2, 64, 80, 3]"),
        (lambda x: (255 * x).int(), TypeError, "must be a tensor of floating point"),
        (lambda x: x > 0.5, TypeError, "must be a tensor of floating point"),
        (lambda x: x.tolist(), TypeError, "got list"),
    ],
)
def test_what_does_not_is_refused(judged, spoil, error, words):
    detector, images, _ = judged
    with pytest.raises(error) as refused:
        detector(spoil(images))
    assert str(refused.value).startswith("Detector: images must be")
    assert words in str(refused.value)


def test_a_score_that_is_no_number_is_a_defect():
    assert is_defect(math.nan, 1.0)
    assert is_defect(torch.tensor(math.inf), 1.0)
    assert is_defect(-math.inf, 1.0)
    assert is_defect(1.0, 1.0)
    assert not is_defect(torch.tensor(0.5), 1.0)
    maps = torch.zeros(2, 4, 4)
    maps[1, 2, 2] = torch.nan  # a place that cannot be judged must not be lost in a maximum
    assert is_defect(Detection.of(maps, (8, 8)).sample_score, 1.0)


def test_what_nobody_judges_is_a_defect():
    assert is_defect(0.0, 1.0, [1.0, None, 1.0]) is False
    assert is_defect(0.0, 1.0, torch.tensor([1.0, 0.4])) is False
    assert is_defect(0.0, 1.0, [1.0, 1.0])
    assert is_defect(0.0, 1.0, torch.ones(3))


def test_what_a_view_shows_nothing_of_is_a_defect_whatever_the_others_find():
    assert is_defect(0.0, 1.0, [0.0, 0.0], [0.9, 0.99]) is False
    assert is_defect(0.0, 1.0, None, [0.2, 1.0])
    assert is_defect(0.0, 1.0, None, torch.tensor([1.0, 0.2]))
    assert is_blind([0.99, None, 1.0]) == [False, False, True]
    found = Detection.of(torch.zeros(2, 4, 4), (8, 8), blind=torch.tensor([0.2, 0.3]))
    assert not found.is_defect(1.0)
    assert found.without(torch.tensor([False, True])).is_defect(1.0)
    assert not Detection.of(torch.zeros(2, 4, 4), (8, 8)).without(torch.tensor([True, True])).is_defect(1.0)


def test_samples_that_do_not_differ_at_all_are_known_and_others_are_defects():
    """Features without any noise are scaled to any length, which must not look like a place that nobody shows."""
    images, rig = station(64, 80, samples=4)
    for normal in (torch.full_like(images, 0.47), images[:1].expand_as(images)):
        detector = fitted(normal, rig)
        assert all(bool(level.known.all()) for level in detector.levels)
        other = detector(images[3].flip(-1))
        assert (other.unjudged == 0).all()
        assert is_defect(other.sample_score, detector.threshold, other.unjudged)
