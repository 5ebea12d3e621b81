"""Homography helpers against closed forms, OpenCV and finite differences."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vsad.geometry import (
    corners_to_homography,
    homography_from_points,
    homography_to_corners,
    image_corners,
    orient_homography,
    overlap_fraction,
    scale_homography,
    transform_points,
)

SIZE = (48, 64)
SHIFT = torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, -3.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
MIRROR = torch.tensor([[-1.0, 0.0, 63.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def random_homographies(*shape: int, seed: int = 0, strength: float = 8.0) -> torch.Tensor:
    """Homographies that move the corners of a SIZE image by up to ``strength`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.rand(*shape, 4, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return corners_to_homography(offsets * strength, SIZE)


def random_points(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return unit * torch.tensor([SIZE[1] - 1, SIZE[0] - 1])


def test_orientation_puts_the_center_in_front() -> None:
    H = random_homographies(5) * torch.tensor([1.0, -1, 3, -0.5, -7])[:, None, None]
    oriented = orient_homography(H, SIZE)
    center = torch.tensor([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 1.0], dtype=torch.float64)
    assert ((oriented @ center)[:, 2] > 0).all()
    assert torch.equal(oriented.abs(), H.abs())
    assert torch.equal(orient_homography(oriented, SIZE), oriented)


def test_orientation_keeps_reflections_and_the_horizon() -> None:
    assert torch.equal(orient_homography(-MIRROR, SIZE), MIRROR)
    through_horizon = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, -31.5]])
    assert torch.equal(orient_homography(through_horizon, SIZE), through_horizon)


def test_scaling_follows_pixel_centers_on_each_axis() -> None:
    H = random_homographies(3)
    scaled = scale_homography(H, (48, 64), (12, 8), source_from_size=(48, 64), source_to_size=(96, 16))
    points = random_points(3, 7)
    small = (points + 0.5) * torch.tensor([8 / 64, 12 / 48]) - 0.5
    expected = (transform_points(H, points) + 0.5) * torch.tensor([16 / 64, 96 / 48]) - 0.5
    torch.testing.assert_close(transform_points(scaled, small), expected, rtol=0, atol=1e-10)


def test_scaling_agrees_with_a_resized_photograph() -> None:
    """Warping then shrinking equals shrinking then warping with the scaled homography."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((128, 160), dtype=np.float32), (0, 0), 6)
    H = np.array([[-0.95, 0.08, 150.0], [-0.05, 1.02, 3.0], [2e-4, -1e-4, 1.0]])  # a mirrored view
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    big = cv2.resize(cv2.warpPerspective(image, H, (160, 128), flags=flags), (40, 32), interpolation=cv2.INTER_AREA)
    H_small = scale_homography(torch.from_numpy(H), (128, 160), (32, 40)).numpy()
    small = cv2.resize(image, (40, 32), interpolation=cv2.INTER_AREA)
    inner = (slice(4, -4), slice(4, -4))
    right = np.abs(big - cv2.warpPerspective(small, H_small, (40, 32), flags=flags))[inner].mean()
    naive = H.copy() * np.array([[1, 1, 1 / 4], [1, 1, 1 / 4], [4, 4, 1]])
    wrong = np.abs(big - cv2.warpPerspective(small, naive, (40, 32), flags=flags))[inner].mean()
    assert right < 0.5 * wrong


def test_scaling_keeps_orientation_and_inverts() -> None:
    H = random_homographies(4)
    scaled = scale_homography(H, SIZE, (6, 8))
    assert torch.equal(orient_homography(scaled, (6, 8)), scaled)
    torch.testing.assert_close(scale_homography(scaled, (6, 8), SIZE), H)


def test_points_agree_with_opencv_and_broadcast() -> None:
    H, points = random_homographies(2, 3), random_points(5)
    mapped, in_front = transform_points(H, points, return_mask=True)
    assert mapped.shape == (2, 3, 5, 2)
    assert in_front.all()
    expected = cv2.perspectiveTransform(points.numpy()[None], H[1, 2].numpy())[0]
    torch.testing.assert_close(mapped[1, 2], torch.from_numpy(expected))


def test_points_behind_or_undefined_are_masked_without_nan() -> None:
    H = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 2]], requires_grad=True)
    points = torch.tensor([[0.0, 4], [2, 1], [3, 1], [float("nan"), 0], [2 - 1e-7, 1]], requires_grad=True)
    mapped, in_front = transform_points(H, points, return_mask=True)
    assert in_front.tolist() == [True, False, False, False, False]
    assert torch.equal(mapped, torch.tensor([[0.0, 2], [0, 0], [0, 0], [0, 0], [0, 0]]))
    grad_points = torch.autograd.grad(mapped.square().sum(), points)[0]
    assert torch.isfinite(grad_points[[0, 1, 2, 4]]).all()
    assert (grad_points[[1, 2, 4]] == 0).all()


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_coordinates_are_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    eye, points = torch.eye(3, dtype=dtype), torch.zeros(4, 2, dtype=dtype)
    assert transform_points(eye, points).dtype == expected
    assert scale_homography(eye, (4, 4), (2, 2)).dtype == expected
    assert corners_to_homography(points, (4, 4)).dtype == expected
    assert overlap_fraction(eye, (4, 4)).dtype == expected


@pytest.mark.parametrize("N", [4, 5, 40])
def test_fit_recovers_homographies(N: int) -> None:
    H = torch.cat((random_homographies(6), random_homographies(2) @ MIRROR))
    points = image_corners(SIZE, dtype=torch.float64).expand(8, 4, 2)
    points = torch.cat((points, random_points(8, N - 4)), 1)
    fitted = homography_from_points(points, transform_points(H, points))
    far = random_points(8, 20, seed=9)
    torch.testing.assert_close(transform_points(fitted, far), transform_points(H, far), rtol=0, atol=1e-8)


def test_autocast_does_not_round_coordinates() -> None:
    H, points = random_homographies(3).float(), random_points(3, 8).float()
    moved = transform_points(H, points)

    def everything() -> list[torch.Tensor]:
        fitted = homography_from_points(points, moved)
        share = overlap_fraction(H, (40, 64))
        return [scale_homography(H, (40, 64), (10, 16)), transform_points(H, points), fitted, share]

    expected = everything()
    with torch.autocast("cpu", torch.bfloat16):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_fit_in_float32_is_accurate_far_from_the_origin() -> None:
    target = image_corners((3000, 4000)) + 1e4
    source = target * 1.1 + torch.tensor([300.0, -200.0])
    error = transform_points(homography_from_points(target, source), target) - source
    assert error.abs().max() < 0.05


def test_fit_is_least_squares_and_obeys_weights() -> None:
    H, points = random_homographies(), random_points(30)
    source = transform_points(H, points)
    source[0] += 40
    weights = torch.ones(30, dtype=torch.float64)
    weights[0] = 0
    exact = homography_from_points(points, source, weights=weights)
    torch.testing.assert_close(transform_points(exact, points)[1:], source[1:], rtol=0, atol=1e-8)
    everything = homography_from_points(points, source)
    assert (transform_points(everything, points) - source)[1:].norm(dim=-1).mean() > 0.5


def test_fit_of_noise_is_near_opencv() -> None:
    generator = torch.Generator().manual_seed(3)
    H, points = random_homographies(seed=4), random_points(200)
    source = transform_points(H, points) + 0.3 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    ours = homography_from_points(points, source)
    theirs = torch.from_numpy(cv2.findHomography(points.numpy(), source.numpy(), 0)[0])
    grid = image_corners(SIZE, dtype=torch.float64)
    assert (transform_points(ours, grid) - transform_points(theirs, grid)).norm(dim=-1).max() < 0.1
    assert (transform_points(ours, grid) - transform_points(H, grid)).norm(dim=-1).max() < 0.5


@pytest.mark.parametrize("N", [4, 7])
def test_fit_gradients(N: int) -> None:
    target, generator = random_points(2, N, seed=5), torch.Generator().manual_seed(6)
    source = target + torch.randn(2, N, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, N, generator=generator, dtype=torch.float64) + 0.5
    inputs = [t.requires_grad_() for t in (target, source, weights)]
    assert torch.autograd.gradcheck(lambda t, s, w: homography_from_points(t, s, weights=w), inputs)


def test_corners_round_trip_and_agree_with_the_fit() -> None:
    generator = torch.Generator().manual_seed(2)
    offsets = torch.randn(3, 5, 4, 2, generator=generator, dtype=torch.float64) * 6
    H = corners_to_homography(offsets, SIZE)
    torch.testing.assert_close(homography_to_corners(H, SIZE), offsets, rtol=0, atol=1e-9)
    corners = image_corners(SIZE, dtype=torch.float64)
    fitted = homography_from_points(corners, corners + offsets)
    points = random_points(10)
    torch.testing.assert_close(transform_points(H, points), transform_points(fitted, points), rtol=0, atol=1e-8)


def test_corners_express_mirrored_views() -> None:
    offsets = homography_to_corners(MIRROR, SIZE)
    torch.testing.assert_close(corners_to_homography(offsets, SIZE), MIRROR)
    assert torch.linalg.det(corners_to_homography(offsets, SIZE)) < 0


def test_corners_in_float32_stay_exact_on_large_images() -> None:
    offsets = torch.tensor([[13.0, -7], [-120, 33], [48, 90], [5, 5]])
    error = homography_to_corners(corners_to_homography(offsets, (2048, 4096)), (2048, 4096)) - offsets
    assert error.abs().max() < 2e-2


def test_corner_gradients_and_degenerate_offsets_are_finite() -> None:
    offsets = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: corners_to_homography(o, SIZE), (offsets,))
    collapsed = -image_corners(SIZE).requires_grad_()  # every corner moves to the origin
    H = corners_to_homography(collapsed, SIZE)
    assert torch.isfinite(H).all()
    assert torch.isfinite(torch.autograd.grad(H.sum(), collapsed)[0]).all()


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_quarter_turns_are_oriented(angle: int) -> None:
    corners = image_corners((33, 33), dtype=torch.float64)
    H = corners_to_homography(corners.roll(angle // 90, 0) - corners, (33, 33))
    torch.testing.assert_close(transform_points(H, corners), corners.roll(angle // 90, 0))
    assert torch.equal(orient_homography(H, (33, 33)), H)


def test_overlap_counts_target_pixels() -> None:
    half = torch.eye(3)
    half[0, 2] = 32  # the right half of the target looks past the source
    away = torch.eye(3)
    away[0, 2] = 640
    behind = -torch.eye(3)
    overlap = overlap_fraction(torch.stack((torch.eye(3), half, away, behind)), (64, 64))
    torch.testing.assert_close(overlap, torch.tensor([1.0, 0.5, 0.0, 0.0]))
    assert overlap_fraction(torch.eye(3), (64, 64), (32, 64)) == 0.5


BAD_CALLS = {
    "homography must be": lambda: orient_homography(torch.eye(4), SIZE),
    "size must be .height, width.": lambda: orient_homography(torch.eye(3), (0, 5)),
    "to_size must be": lambda: scale_homography(torch.eye(3), SIZE, (4,)),
    "source_to_size must be": lambda: scale_homography(torch.eye(3), SIZE, SIZE, source_to_size=(4, -1)),
    "points must be .... N 2.": lambda: transform_points(torch.eye(3), torch.ones(2, 3)),
    "target_points must be at least 4": lambda: homography_from_points(torch.ones(3, 2), torch.ones(3, 2)),
    "source_points must be .... 5 2.": lambda: homography_from_points(torch.ones(5, 2), torch.ones(4, 2)),
    "weights must be": lambda: homography_from_points(torch.ones(4, 2), torch.ones(4, 2), weights=torch.ones(3)),
    "offsets must be .... 4 2.": lambda: corners_to_homography(torch.ones(3, 2), SIZE),
    "size must be at least": lambda: corners_to_homography(torch.ones(4, 2), (1, 8)),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_errors(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD_CALLS[message]()


@pytest.fixture
def chessboards(shared_data: Path) -> np.ndarray:
    """The 9 x 6 inner corners of a chessboard in thirteen photographs, (13, 54, 2)."""
    boards = []
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-3)
    for path in sorted(shared_data.glob("left*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        found, corners = cv2.findChessboardCorners(image, (9, 6))
        assert found, f"no chessboard in {path.name}"
        boards.append(cv2.cornerSubPix(image, corners, (5, 5), (-1, -1), criteria).reshape(-1, 2))
    return np.stack(boards)


def pairwise_rms(boards: np.ndarray) -> torch.Tensor:
    """Reprojection error in pixels of the homography between every two poses, (156,)."""
    points = torch.from_numpy(boards).double()
    target, source = points[list(itertools.permutations(range(len(boards)), 2))].unbind(1)
    mapped, in_front = transform_points(homography_from_points(target, source), target, return_mask=True)
    assert in_front.all()
    return (mapped - source).square().sum(-1).mean(-1).sqrt()


def test_chessboard_photographs(chessboards: np.ndarray) -> None:
    """The lens bends the board by a pixel or two; without its distortion the fit is good to a fraction of one."""
    bent = pairwise_rms(chessboards)
    grid = np.zeros((54, 3), np.float32)
    grid[:, :2] = np.mgrid[:9, :6].T.reshape(-1, 2)
    _, K, distortion, _, _ = cv2.calibrateCamera([grid] * 13, list(chessboards), (640, 480), None, None)
    straight = pairwise_rms(np.stack([cv2.undistortPoints(b[:, None], K, distortion, P=K)[:, 0] for b in chessboards]))
    assert bent.median() < 1
    assert bent.max() < 2.5
    assert straight.median() < 0.3
    assert straight.max() < 0.5
