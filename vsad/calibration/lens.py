"""A camera's lens: how it bends what is straight, found from boards held at several tilts, and taken out of pictures.

Source: Zhang, "A flexible new technique for camera calibration", 2000, and Brown's distortion, as OpenCV has them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.calibration.board_views import find_boards
from vsad.calibration.chessboard import Board, board_points, checked_board
from vsad.calibration.samples import view_names
from vsad.geometry import Size, homography_from_points, transform_points
from vsad.progress import SILENT, Progress

# Each half of the boards must fix a pinhole and five numbers of a lens by itself: three boards do.
MIN_BOARDS = 6
# Views that an error names.
_NAMED = 5
# Root mean square in pixels: corners of a flat board in focus are found to half of that.
_STRAIGHT_PX = 0.5
# Beyond the corners a lens is a guess. A smaller share of the picture is worth a word.
_MIN_COVERED = 1 / 3
# What is fixed at zero of five numbers, fewest free first: k1; k1 and k2; none.
_K1 = cv2.CALIB_ZERO_TANGENT_DIST | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3
_MODELS = (_K1, cv2.CALIB_ZERO_TANGENT_DIST | cv2.CALIB_FIX_K3, 0)
# More numbers must leave less than this share of the error of boards that they were not fitted to.
_WORTH = 0.99
# One number bends a picture, and a focal length tilts the board: as many unknowns as a homography has.
_AS_A_HOMOGRAPHY = _K1 | cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_PRINCIPAL_POINT | cv2.CALIB_FIX_ASPECT_RATIO


@dataclass(frozen=True)
class Lens:
    """A pinhole camera and the distortion of its lens.

    Convention: pixel centers are integers. A ray through ``(u, v)`` at distance 1, ``r^2 = u^2 + v^2``, meets the
    picture at ``center + focal * ((u, v) * (1 + k1 r^2 + k2 r^4 + k3 r^6) + tangential terms of p1 and p2)``.

    Args:
        size: ``(height, width)`` of the camera's pictures.
        focal: along x and y, in pixels.
        center: ``(x, y)`` of the optical axis, in pixels.
        distortion: ``(k1, k2, p1, p2, k3)``.
        boards: number of boards that it was found from.
        bent_px: what the corners of a flat board lie off its picture by a pinhole, root mean square.
        straight_px: the same once the distortion is taken out, by a lens of the other half of the boards.
        covered: share of the picture that the boards' corners span.
    """

    size: Size
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, float, float, float, float]
    boards: int
    bent_px: float
    straight_px: float
    covered: float

    @property
    def matrix(self) -> np.ndarray:
        """The pinhole's matrix, ``(3, 3)`` float64."""
        return np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1]])

    def undistort(self, picture: np.ndarray, *, is_mask: bool = False) -> np.ndarray:
        """Take the distortion out of a picture: straight edges become straight, the pinhole stays.

        Args:
            picture: ``(H, W)`` or ``(H, W, C)`` uint8, uint16 or float32, of the lens's size.
            is_mask: take each pixel's nearest instead of mixing neighbors.

        Returns:
            The same shape and dtype; black where the camera saw nothing.

        Raises:
            ValueError: a picture of another size.
        """
        height, width = picture.shape[:2]
        if (height, width) != self.size:
            raise ValueError(
                f"undistort: picture must be of {self.size[0]} x {self.size[1]} pixels (height x width) as the lens's "
                f"boards were, got {height} x {width}; estimate the lens from pictures of this size"
            )
        return cv2.remap(picture, *self._maps, cv2.INTER_NEAREST if is_mask else cv2.INTER_LINEAR)

    def straighten(self, points: Tensor) -> Tensor:
        """Where points ``(K, 2)`` float64 of a picture lie in the undistorted one."""
        moved = cv2.undistortPoints(
            points.numpy()[:, None], self.matrix, np.array(self.distortion), P=self.matrix
        )  # fmt: skip
        return torch.from_numpy(moved[:, 0])

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        K, distortion = self.matrix, np.array(self.distortion)
        first, second = cv2.initUndistortRectifyMap(K, distortion, None, K, self.size[::-1], cv2.CV_16SC2)
        return first, second


def estimate_lenses(
    images_per_sample: Iterable[Any],
    views: Sequence[str] | None = None,
    *,
    board: Board = (9, 6),
    max_samples: int = 40,
    progress: Progress = SILENT,
) -> dict[str, Lens]:
    """Find the lens of every camera from images of a chessboard that is held at many tilts, all over the picture.

    Unlike for ``calibrate_chessboard``, the boards must *not* lie in one plane, and cameras need not see them at once.

    Args:
        images_per_sample: as of ``calibrate``.
        views: names of the views; default the data set's own ``views``.
        board: inner corners along its sides, one odd and one even number.
        max_samples: maximum number of samples to use, spread evenly over a data set, or the first ones of an iterable.
        progress: told of the samples that are done.

    Returns:
        The lenses by view. A view with fewer than six boards is left out with a warning, and so is one whose boards
        are as flat without a lens.

    Raises:
        TypeError: a sample is no tensor of floating point.
        ValueError: no view has boards enough, a lens folds its picture, or as ``calibrate_chessboard``.
    """
    board, views = checked_board(board), view_names(images_per_sample, views)
    boards = find_boards(images_per_sample, views, board, (), max_samples, progress)
    found = {view: boards.of_view(number) for number, view in enumerate(views)}
    few = [f"{len(corners)} in {view}" for view, corners in found.items() if len(corners) < MIN_BOARDS]
    remedy = f"take at least {MIN_BOARDS} pictures with the board tilted to all sides, near the picture's corners, too"
    if len(few) == len(views):
        more = f" and {len(few) - _NAMED} more views" if len(few) > _NAMED else ""
        raise ValueError(
            f"lens: a camera must see at least {MIN_BOARDS} whole boards, got {', '.join(few[:_NAMED])}{more}; {remedy}"
            ", and name the camera (--camera) where all pictures are of one"
        )
    lenses = {}
    for view, corners in found.items():
        if len(corners) >= MIN_BOARDS:
            lens = fit_lens(corners, board, boards.size, view)
            if lens.straight_px < lens.bent_px:
                lenses[view] = lens
    for problem in _problems(found, lenses, few, remedy):
        warnings.warn(f"lens: {problem}", stacklevel=2)
    return lenses


def fit_lens(corners: Sequence[Tensor], board: Board, size: Size, view: str) -> Lens:
    """Fit a lens to boards' corners, each ``(K, 2)`` float64 in the order of ``board_points``.

    Of the five numbers as many are free as the boards confirm: more must serve better on boards that they have not
    seen, and none may fold the picture beyond the corners.

    Raises:
        ValueError: the boards leave open what the lens does at the rim of the picture.
    """
    best = None
    for flags in _MODELS:
        lens = _fitted(corners, board, size, flags)
        if not _folds(lens) and (best is None or lens.straight_px < _WORTH * best.straight_px):
            best = lens
    if best is None:
        raise ValueError(
            f"lens: boards must be held at several tilts and near the picture's corners, got {lens.covered:.0%} of the "
            f"picture of {view} covered, and a lens that folds the rest; take more pictures"
        )
    return best


def _fitted(corners: Sequence[Tensor], board: Board, size: Size, flags: int) -> Lens:
    """The lens of all boards, measured on each half of them by a lens of the other half."""
    K, distortion = _calibrated(corners, board, size, flags)
    straight = []
    for ours, others in ((corners[::2], corners[1::2]), (corners[1::2], corners[::2])):
        straight += _straightened(others, *_calibrated(ours, board, size, flags))
    hull = cv2.convexHull(torch.cat(list(corners)).float().numpy())
    k1, k2, p1, p2, k3 = distortion.tolist()
    return Lens(
        size, (float(K[0, 0]), float(K[1, 1])), (float(K[0, 2]), float(K[1, 2])), (k1, k2, p1, p2, k3),
        len(corners), off_flat(corners, board), off_flat(straight, board), cv2.contourArea(hull) / math.prod(size),
    )  # fmt: skip


def off_flat(corners: Sequence[Tensor], board: Board) -> float:
    """What corners lie off the pictures of a flat board by a pinhole, root mean square in pixels."""
    flat, squares = board_points(board), []
    for found in corners:
        H = homography_from_points(flat, found)
        squares.append((transform_points(H, flat) - found).square().sum(-1))
    return float(torch.cat(squares).mean().sqrt())


def off_flat_without_lens(corners: Sequence[Tensor], board: Board, size: Size) -> float:
    """``off_flat`` once a lens of one number is taken out that was fitted to the same boards, of which one is enough.

    It has no more unknowns than a homography, so that where it leaves far less the lens is what was in the way.
    """
    return off_flat(_straightened(corners, *_calibrated(corners, board, size, _AS_A_HOMOGRAPHY)), board)


def _calibrated(corners: Sequence[Tensor], board: Board, size: Size, flags: int) -> tuple[np.ndarray, np.ndarray]:
    """The pinhole's matrix ``(3, 3)`` and the distortion ``(5,)``, float64."""
    flat = np.pad(board_points(board).numpy(), ((0, 0), (0, 1))).astype(np.float32)
    if torch.linalg.det(homography_from_points(board_points(board), corners[0])) < 0:
        flat[:, 0] *= -1  # a camera that sees in a mirror sees the mirrored board without one
    side = 1.2 * max(size)
    K = np.array([[side, 0, (size[1] - 1) / 2], [0, side, (size[0] - 1) / 2], [0, 0, 1]])
    points = [found.float().numpy()[:, None] for found in corners]
    _, K, distortion, _, _ = cv2.calibrateCamera(
        [flat] * len(points), points, size[::-1], K, np.zeros(5), flags=flags
    )  # fmt: skip
    return K, distortion.reshape(-1)


def _straightened(corners: Sequence[Tensor], K: np.ndarray, distortion: np.ndarray) -> list[Tensor]:
    moved = [cv2.undistortPoints(found.numpy()[:, None], K, distortion, P=K)[:, 0] for found in corners]
    return [torch.from_numpy(points) for points in moved]


def _folds(lens: Lens) -> bool:
    """Whether some rays that lie farther out meet the picture farther in, up to the undistorted picture's corners."""
    height, width = lens.size
    reach = max(
        math.hypot((x - lens.center[0]) / lens.focal[0], (y - lens.center[1]) / lens.focal[1])
        for x in (0, width - 1)
        for y in (0, height - 1)
    )
    k1, k2, _, _, k3 = lens.distortion
    r = np.linspace(0, reach, 256)
    # !(growth > 0): a fit that failed is NaN.
    return not bool((1 + 3 * k1 * r**2 + 5 * k2 * r**4 + 7 * k3 * r**6 > 0).all())


def _problems(found: dict[str, list[Tensor]], lenses: dict[str, Lens], few: list[str], remedy: str) -> list[str]:
    """What the user should know before the lenses are used, in words."""
    problems = [f"too few whole boards: {', '.join(few)}; {remedy}"] if few else []
    good = [view for view, corners in found.items() if len(corners) >= MIN_BOARDS and view not in lenses]
    if good:
        problems.append(f"the pictures of {', '.join(good)} are as straight without a lens; leave them as they are")
    bare = [f"{view} ({lens.covered:.0%})" for view, lens in lenses.items() if lens.covered < _MIN_COVERED]
    if bare:
        problems.append(
            f"the boards' corners span a part of the picture only, beyond which the lens is a guess: "
            f"{', '.join(bare)}; hold the board near the picture's corners, too"
        )
    bent = [f"{view} ({lens.straight_px:.2f} px)" for view, lens in lenses.items() if lens.straight_px > _STRAIGHT_PX]
    if bent:
        problems.append(
            f"corners lie off a flat board's even without the lens: {', '.join(bent)}; the board is not flat, was "
            "moved or out of focus, or the lens is a fisheye, which this is not for"
        )
    return problems
