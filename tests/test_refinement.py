"""Refinement of a motion on the pictures: a similarity where they tell no more, a homography where they do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from vsad.geometry import transform_points
from vsad.ops import homography_warp
from vsad.registration.features import Matches
from vsad.registration.frame import Frame
from vsad.registration.photometric import Pyramid
from vsad.registration.pose import nearest_similarity
from vsad.registration.refinement import refine_motion, refine_views, settle
from vsad.registration.robust import Candidate

SIZE = 128
EYE = torch.eye(3, dtype=torch.float64)
NO_MATCHES = Matches(torch.zeros(0, 2).double(), torch.zeros(0, 2).double(), torch.zeros(0).double())

pytestmark = pytest.mark.usefixtures("one_thread")


def grain(seed, blur=2.0):
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32)
    smooth = torch.from_numpy(cv2.GaussianBlur(noise, None, blur))
    return smooth / smooth.std()


def picture(levels):
    return (128 + 40 * levels).clamp(0, 255).byte()[None]


def pyramid(gray):
    return Pyramid(gray, Frame([0], EYE[None]), torch.zeros(gray.shape, dtype=torch.bool))


def turned(gray, motion):
    """The pictures of a product that has moved by ``motion``."""
    warped = homography_warp(gray[:, None].float(), torch.linalg.inv(motion)[None].float(), padding="border")
    return warped[:, 0].round().byte()


def similarity(degrees, x, y, scale=1.0):
    a, b = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    return torch.tensor([[a, -b, x], [b, a, y], [0, 0, 1]], dtype=torch.float64)


def worst_error(motion, true):
    axis = torch.linspace(0, SIZE - 1, 9, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    return float((transform_points(motion, grid) - transform_points(true, grid)).norm(dim=-1).max())


def test_the_nearest_similarity_of_one_is_itself():
    true = similarity(30, 5, -8, 1.1)
    torch.testing.assert_close(nearest_similarity(true, (SIZE, SIZE)), true)


def test_no_other_similarity_is_nearer_to_a_homography():
    motion = similarity(10, 3, 2) @ torch.tensor([[1.1, 0.05, 0], [0, 0.9, 0], [4e-4, -3e-4, 1]], dtype=torch.float64)
    axis = torch.linspace(0, SIZE - 1, 5, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)

    def squares(candidate):
        return (transform_points(candidate, grid) - transform_points(motion, grid)).square().sum()

    nearest = nearest_similarity(motion, (SIZE, SIZE))
    for other in (similarity(0.1, 0, 0), similarity(0, 0.1, 0), similarity(0, 0, 0.1), similarity(0, 0, 0, 1.001)):
        assert squares(nearest) < squares(nearest @ other)
        assert squares(nearest) < squares(nearest @ torch.linalg.inv(other))


def test_a_similarity_is_found_and_stays_one():
    canonical, true = picture(grain(0)), similarity(2, 1.5, -2, 1.01)
    found, agreement = pyramid(canonical).refine(turned(canonical, true), EYE, similar=True)
    assert agreement > 0.9
    assert worst_error(found, true) < 0.1
    found = found / found[2, 2]
    torch.testing.assert_close(found[0, 0], found[1, 1])
    torch.testing.assert_close(found[0, 1], -found[1, 0])
    torch.testing.assert_close(found[2, :2], torch.zeros(2, dtype=torch.float64))


def test_surfaces_of_their_own_are_placed_by_a_similarity():
    """A homography follows what is chance there, and swings at the corners."""
    true = similarity(1.5, 1, -2)
    similar, free = [], []
    for seed in range(10, 60, 10):
        shared = grain(0, 4)
        template = pyramid(picture(shared + 0.6 * grain(seed)))
        gray = turned(picture(shared + 0.6 * grain(seed + 1)), true)
        found, agreement = refine_motion(template, gray, [Candidate(true, True)], NO_MATCHES)
        assert 0.2 < agreement < 0.7
        similar.append(worst_error(found, true))
        free.append(worst_error(template.fine.refine(gray, true)[0], true))
    assert max(similar) < 1.5
    assert np.median(free) > 1.5 * np.median(similar)


def test_the_pictures_say_where_a_homography_is_needed():
    """The plane as a camera sees it that looks askance: a turn in it is far from a similarity in the picture."""
    P = torch.tensor([[1.0, 0.1, 0], [0, 0.7, 10], [0, 2e-3, 1]], dtype=torch.float64)
    center = similarity(0, 64, 64)
    turn = center @ similarity(12, 1, 2) @ torch.linalg.inv(center)
    true = P @ turn @ torch.linalg.inv(P)
    canonical = picture(grain(0))
    gray = turned(canonical, true)
    assert worst_error(nearest_similarity(true, (SIZE, SIZE)), true) > 3
    found, agreement = refine_motion(
        pyramid(canonical), gray, [Candidate(true @ similarity(0, 1, 1), True)], NO_MATCHES
    )
    assert agreement > 0.9
    assert worst_error(found, true) < 0.2


def test_views_without_texture_do_not_lower_the_agreement():
    textured, blank = picture(grain(0)), picture(torch.zeros(SIZE, SIZE))
    gray = torch.cat([textured, blank, blank])
    templates = [
        Pyramid(gray, Frame([view], EYE[None]), torch.zeros(gray.shape, dtype=torch.bool)) for view in range(3)
    ]
    assert refine_views(templates, gray, EYE.repeat(3, 1, 1))[1] > 0.99


def test_it_refines_on_while_the_pictures_agree_more():
    class Slow:
        def refine(self, gray, start, *, similar):
            return start + 1, min(0.3 + 0.1 * (float(start) + 1), 0.65)

    gray = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    motion, agreement = settle(Slow(), gray, torch.tensor(0.0))
    assert (float(motion), agreement) == (4, 0.65)
    assert settle(Slow(), gray, torch.tensor(7.0))[1] == 0.65


def test_it_stops_where_nothing_is_left_to_gain():
    class Alike:
        def refine(self, gray, start, *, similar):
            return start + 1, 0.95 + 0.03 * float(start)

    motion, agreement = settle(Alike(), torch.zeros(1, SIZE, SIZE, dtype=torch.uint8), torch.tensor(0.0))
    assert (float(motion), agreement) == (1, 0.95)
