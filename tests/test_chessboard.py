"""Calibration by a chessboard: known cameras, boards in one plane and in several, and real photographs."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.flat_surfaces import as_tensor, camera, chessboard, mean_error, photograph, texture, turned
from vsad.calibration import CalibrationReport, calibrate_chessboard
from vsad.calibration.chessboard import bend, board_points, find_corners
from vsad.geometry import Rig

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERAS = {
    "ahead": camera(0, 0),
    "left": turned(camera(35, 20), 100),
    "over": turned(camera(40, 200), 180),
    "right": turned(camera(30, 310), 265),
    "mirror": turned(camera(25, 80), 20, mirrored=True),
}


def sample(surface: np.ndarray, cameras: dict[str, np.ndarray] = CAMERAS) -> torch.Tensor:
    return as_tensor(*(photograph(surface, H) for H in cameras.values()))


def quietly(*arguments, **options) -> tuple[Rig, CalibrationReport]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return calibrate_chessboard(*arguments, **options)


@pytest.mark.parametrize("board", [(9, 6), (6, 9)])
def test_cameras_that_look_from_any_side_and_through_a_mirror(board: tuple[int, int]) -> None:
    rig, report = quietly([sample(chessboard())], list(CAMERAS), board=board, mirrored=["mirror"])
    assert len(rig.pairs) == 20
    for pair in rig.pairs:
        H_true = CAMERAS[pair.source] @ np.linalg.inv(CAMERAS[pair.target])
        assert mean_error(pair.homography, H_true, (240, 240)) < 0.2, (pair.target, pair.source)
    for pair in report.pairs:
        assert pair.mirrored == ("mirror" in (pair.target, pair.source))
        assert (pair.method, pair.inliers, pair.reason) == ("chessboard", 54, "")
        assert pair.error_px < 0.15
        assert pair.error_px < pair.held_out_px < 0.2


def test_boards_that_move_in_their_plane_are_pooled() -> None:
    surfaces = [chessboard(square=10, corner=corner) for corner in ((20, 30), (110, 40), (60, 140))]
    one = quietly([sample(surfaces[0])], list(CAMERAS), mirrored=["mirror"])[0]
    samples = [{"images": sample(surface), "id": str(n)} for n, surface in enumerate(surfaces)]
    rig, report = quietly(samples, list(CAMERAS), mirrored=["mirror"])
    assert report.samples == 3
    assert {pair.inliers for pair in report.pairs} == {3 * 54}

    def worst(rig: Rig) -> float:
        truth = {(a, b): CAMERAS[b] @ np.linalg.inv(CAMERAS[a]) for a in CAMERAS for b in CAMERAS}
        return max(mean_error(p.homography, truth[p.target, p.source], (240, 240)) for p in rig.pairs)

    assert worst(rig) < 0.15
    assert worst(rig) < worst(one)


def test_boards_of_several_planes_are_refused() -> None:
    """A board that lies higher lies elsewhere for a camera that looks aslant."""
    surface = chessboard()
    cameras, higher = ({"a": camera(0, 0), "b": camera(40, 20, height=height)} for height in (0, 12))
    samples = [{"images": sample(surface, cameras), "id": "flat"}, {"images": sample(surface, higher), "id": "high"}]
    with pytest.raises(ValueError, match=r"one plane.*between a and b errs by \d+\.\d px in sample (flat|high)"):
        calibrate_chessboard(samples, ["a", "b"])


def test_a_view_without_the_board_is_left_out_with_a_warning() -> None:
    images = sample(chessboard())[:3]
    images[1] = 0.5
    with pytest.warns(UserWarning, match="no homography between|has no partner") as caught:
        rig, report = calibrate_chessboard([images], list("abc"))
    said = " ".join(str(warning.message) for warning in caught)
    assert "no homography between a and b, b and c (no whole board in b)" in said
    assert "b has no partner" in said
    assert caught[0].filename == __file__
    assert report.failed == (("a", "b"), ("b", "c"))
    assert rig.neighbors.tolist() == [[2], [-1], [0]]


def test_views_that_see_the_board_at_different_times_have_no_homography() -> None:
    both = sample(chessboard())[:2]
    first, second = both.clone(), both.clone()
    first[0], second[1] = 0.5, 0.5
    with pytest.warns(UserWarning, match="never the whole board in both at once|no neighbors"):
        _, report = calibrate_chessboard([first, second], ["a", "b"])
    assert len(report.failed) == 1


def test_corners_come_in_the_boards_own_order() -> None:
    H = CAMERAS["over"]
    picture = cv2.cvtColor(photograph(chessboard(), H), cv2.COLOR_RGB2GRAY)
    corners = find_corners(picture, (9, 6))
    on_surface = board_points((9, 6)) * 16 + torch.tensor([40 + 15.5, 64 + 15.5])
    expected = cv2.perspectiveTransform(on_surface[None].numpy(), H)[0]
    assert np.abs(corners.numpy() - expected).max() < 0.3
    assert bend(corners, (9, 6)) < 0.2


@pytest.mark.parametrize("board", [(8, 5), (7, 6), (9, 4)])
@pytest.mark.parametrize("camera", ["ahead", "over"])
def test_a_part_of_a_larger_board_is_none(camera: str, board: tuple[int, int]) -> None:
    """Which part is found depends on the view, so that the views' corners would not be the same."""
    views = dict.fromkeys("ab", CAMERAS[camera])
    with pytest.raises(ValueError, match=r"goes on beyond|got none in any view"):
        calibrate_chessboard([sample(chessboard(), views)], ["a", "b"], board=board)


def test_a_lens_that_bends_is_named() -> None:
    K = np.array([[300.0, 0, 119.5], [0, 300, 119.5], [0, 0, 1]])
    ys, xs = np.indices((240, 240), np.float32)
    rays = np.stack([(xs - 119.5) / 300, (ys - 119.5) / 300], -1).reshape(-1, 1, 2)
    # remap asks where each pixel of the bent picture lies in the straight one.
    straight = cv2.undistortPoints(rays * 300 + 119.5, K, np.array([-0.5, 0, 0, 0]), P=K).reshape(240, 240, 2)
    surface = chessboard(square=20, corner=(20, 50))
    views = photograph(surface, camera(0, 0)), photograph(surface, camera(20, 0))
    bent = cv2.remap(views[1], straight.astype(np.float32), None, cv2.INTER_CUBIC)
    with pytest.warns(UserWarning, match=r"limits it in bent \(0\.\d\d px, 0\.0\d px without it\)") as caught:
        calibrate_chessboard([as_tensor(views[0], bent)], ["straight", "bent"])
    assert len(caught) == 1


def test_photographs(shared_data: Path) -> None:
    """Thirteen poses of a board: the lens bends by 1 to 3 pixels; of undistorted photographs every pair is exact."""
    paths = sorted(shared_data.glob("left*.jpg"))
    names, photographs = [path.stem for path in paths], [cv2.imread(str(path))[..., ::-1].copy() for path in paths]
    with pytest.warns(
        UserWarning, match=r"what limits it in left03 \(1\.\d\d px, 0\.\d\d px without it\), .* and 8 more"
    ):
        _, raw = calibrate_chessboard([as_tensor(*photographs)], names)
    assert len(raw.pairs) == 13 * 12
    assert not any(pair.mirrored for pair in raw.pairs)
    errors = [pair.error_px for pair in raw.pairs]
    assert np.median(errors) < 0.8
    assert max(errors) < 2.1

    corners = {pair.target: pair.points.numpy().astype(np.float32)[:, None] for pair in raw.pairs}
    grid = np.pad(board_points((9, 6)).numpy(), ((0, 0), (0, 1))).astype(np.float32)
    found = list(corners.values())
    _, K, distortion, _, _ = cv2.calibrateCamera([grid] * 13, found, (640, 480), None, None)
    straight = as_tensor(*(cv2.undistort(photograph, K, distortion) for photograph in photographs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, exact = calibrate_chessboard([straight], names)
    assert max(pair.error_px for pair in exact.pairs) < 0.5
    assert max(pair.held_out_px for pair in exact.pairs) < 0.5


def test_a_board_that_is_not_flat_is_no_lens() -> None:
    surface = chessboard(square=20, corner=(20, 50))
    ys, xs = np.indices((240, 240), np.float32)
    wavy = cv2.remap(surface, xs, ys + 2 * np.sin(xs / 12), cv2.INTER_CUBIC)
    with pytest.warns(UserWarning, match=r"not straight in wavy \(.*\), and a lens explains little of it"):
        calibrate_chessboard([as_tensor(surface, wavy)], ["flat", "wavy"])


def on_a_table() -> np.ndarray:
    """A board on a table with marks, which tell what the board does not."""
    board, surface = chessboard(), texture(7)
    surface[52:189, 28:213] = board[52:189, 28:213]
    return surface


def test_the_table_around_a_board_tells_a_mirror() -> None:
    images, views = [sample(on_a_table())], list(CAMERAS)
    with pytest.warns(UserWarning, match="agree only if one of the two views sees in a mirror") as caught:
        calibrate_chessboard(images, views)
    assert "(mirrored: no view): ahead and mirror, left and mirror, over and mirror, right and mirror; name" in str(
        caught[0].message
    )
    _, report = quietly(images, views, mirrored=["mirror"])
    assert report.mirrors_unknown == ()
    with pytest.warns(
        UserWarning,
        match=r"\(mirrored: left, mirror\): ahead and left, left and over, left and right, left and mirror;",
    ):
        calibrate_chessboard(images[:3], views, mirrored=["left", "mirror"])


def test_a_bare_table_leaves_mirrors_open() -> None:
    _, report = quietly([sample(chessboard())], list(CAMERAS), mirrored=["mirror"])
    assert report.mirrors_unknown == tuple(CAMERAS)


IMAGES = torch.full((2, 3, 32, 32), 0.5)
BAD_CALLS = {
    "board must have an odd number .* got 8x6": lambda: calibrate_chessboard([IMAGES], ["a", "b"], board=(8, 6)),
    "board must have an odd number .* got 7x7": lambda: calibrate_chessboard([IMAGES], ["a", "b"], board=(7, 7)),
    "at least 3 x 3 inner corners, got 9x2": lambda: calibrate_chessboard([IMAGES], ["a", "b"], board=(9, 2)),
    "mirrored must name views of a, b, got 'c'": lambda: calibrate_chessboard([IMAGES], ["a", "b"], mirrored=["c"]),
    "9x6 inner corners, got none in any view": lambda: calibrate_chessboard([IMAGES], ["a", "b"]),
    "at least one sample, got none": lambda: calibrate_chessboard([], ["a", "b"]),
    "max_samples must be at least 1": lambda: calibrate_chessboard([IMAGES], ["a", "b"], max_samples=0),
    r"sample 1: images must be \[2 3 32 32\]": lambda: calibrate_chessboard([IMAGES, IMAGES[..., :16]], ["a", "b"]),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_errors(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD_CALLS[message]()
