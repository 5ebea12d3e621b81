"""The way from a place in one view to the same place in another."""

from __future__ import annotations

import pytest
import torch

from vsad.geometry import RigPair, transform_points
from vsad.report.places import chains

SIZE = (48, 64)


def perspective(shift: float, tilt: float) -> torch.Tensor:
    return torch.tensor([[1.0, 0.1, shift], [0.05, 0.9, 2.0], [tilt, 0.0, 1.0]], dtype=torch.float64)


A_TO_B, B_TO_C = perspective(5.0, 1e-3), perspective(-3.0, -2e-3)


def walk(chain: list[list[float]], point: torch.Tensor) -> torch.Tensor:
    for numbers in chain:
        point = transform_points(torch.tensor(numbers, dtype=torch.float64).reshape(3, 3), point)
    return point


def test_a_known_pair_is_one_step_and_its_inverse_the_way_back() -> None:
    found = chains([RigPair("a", "b", A_TO_B)], ["a", "b"], SIZE)
    point = torch.tensor([[20.0, 30.0]], dtype=torch.float64)
    there = transform_points(A_TO_B, point)
    assert [len(found[0][1]), len(found[1][0])] == [1, 1]
    torch.testing.assert_close(walk(found[0][1], point), there)
    torch.testing.assert_close(walk(found[1][0], there), point)
    assert found[0][0] == found[1][1] == []


def test_a_measured_direction_counts_more_than_an_inverse() -> None:
    other = perspective(9.0, 0.0)
    found = chains([RigPair("a", "b", A_TO_B), RigPair("b", "a", other)], ["a", "b"], SIZE)
    point = torch.tensor([[20.0, 30.0]], dtype=torch.float64)
    torch.testing.assert_close(walk(found[1][0], point), transform_points(other, point))


def test_views_that_are_no_neighbors_are_joined_over_a_third() -> None:
    found = chains([RigPair("a", "b", A_TO_B), RigPair("b", "c", B_TO_C)], ["a", "b", "c"], SIZE)
    point = torch.tensor([[20.0, 30.0], [1.0, 40.0]], dtype=torch.float64)
    assert len(found[0][2]) == 2
    torch.testing.assert_close(walk(found[0][2], point), transform_points(B_TO_C @ A_TO_B, point))
    torch.testing.assert_close(walk(found[2][0], transform_points(B_TO_C @ A_TO_B, point)), point)


def test_three_steps_are_too_many() -> None:
    pairs = [RigPair(a, b, torch.eye(3)) for a, b in ("ab", "bc", "cd")]
    found = chains(pairs, list("abcd"), SIZE)
    assert found[0][3] is None
    assert found[3][0] is None
    assert len(found[0][2]) == len(found[1][3]) == 2


def test_of_two_ways_the_better_known_is_taken() -> None:
    shifts = {"ab": 1.0, "bd": 2.0, "ac": 10.0, "cd": 20.0}
    errors = {"ab": 0.1, "bd": 0.9, "ac": 0.3, "cd": 0.3}
    pairs = [RigPair(k[0], k[1], perspective(shifts[k], 0.0), 50, errors[k]) for k in shifts]
    found = chains(pairs, list("abcd"), SIZE)
    point = torch.tensor([[20.0, 30.0]], dtype=torch.float64)
    expected = transform_points(perspective(20.0, 0.0) @ perspective(10.0, 0.0), point)
    torch.testing.assert_close(walk(found[0][3], point), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_step_has_the_image_center_in_front(sign: float) -> None:
    found = chains([RigPair("a", "b", sign * A_TO_B)], ["a", "b"], SIZE)
    for chain in (found[0][1], found[1][0]):
        H = torch.tensor(chain[0], dtype=torch.float64).reshape(3, 3)
        assert H[2] @ torch.tensor([31.5, 23.5, 1.0], dtype=torch.float64) > 0
