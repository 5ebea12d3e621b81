"""Which views see in a mirror, told by what lies around a chessboard: the board itself looks alike in a mirror."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from vsad.calibration.board_views import BoardViews
from vsad.calibration.chessboard import Board, board_points
from vsad.geometry import homography_from_points

# The board's rim of paper, in squares around the corners, looks alike in a mirror as well.
_RIM = 1.6
# Marks are looked at, neither noise nor light: blurs by these shares of the longer side.
_FINE, _COARSE = 1 / 150, 1 / 20
# Of 256 levels, and of the picture: where there is less around the board, nothing is told.
_LEAST_MARKS, _LEAST_AREA = 2.0, 0.03
# Pictures of one surface correlate by 0.85 to 0.96 the right way round, by 0.5 at most the other way, and those of a
# board that is carried through a room by 0.25 at most.
_SURE, _APART = 0.6, 0.3


def told_by_surroundings(boards: BoardViews, views: Sequence[str]) -> tuple[list[str], list[str]]:
    """Compare what pairs of views see around the board with what they would see if one of them saw in a mirror.

    Returns:
        The pairs of views that agree only if one of them sees in a mirror and the other does not, contrary to what was
        taken for granted; and the views that no pair tells anything of.
    """
    wrong, open_views = [], list(views)
    for a, b in itertools.combinations(range(len(views)), 2):
        as_taken, otherwise = _agreement(boards, a, b)
        if max(as_taken, otherwise) > _SURE and abs(as_taken - otherwise) > _APART:
            wrong += [f"{views[a]} and {views[b]}"] if otherwise > as_taken else []
            open_views = [view for view in open_views if view not in (views[a], views[b])]
    return wrong, open_views


def _agreement(boards: BoardViews, target: int, source: int) -> tuple[float, float]:
    """How two views correlate around the board, as taken for granted and otherwise, in the sample that tells most."""
    found = [(0.0, 0.0)]
    for corners, pictures in zip(boards.corners, boards.pictures):
        here, there = corners[target], corners[source]
        if here is not None and there is not None:
            maps = [_from_board(points, boards.board, boards.scale) for points in (here, there)]
            mirror = _mirror(boards.board)
            both = [
                _correlation(pictures[target], pictures[source], maps[0], maps[1] @ each, boards.board)
                for each in (np.eye(3), mirror)
            ]
            found.append((both[0], both[1]))
    return max(found, key=max)


def _correlation(
    target: np.ndarray, source: np.ndarray, to_target: np.ndarray, to_source: np.ndarray, board: Board
) -> float:
    """How the target's marks around the board correlate with the source's; 0 where there are few."""
    H, size = to_source @ np.linalg.inv(to_target), target.shape[1::-1]
    warped = cv2.warpPerspective(_marks(source), H, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)
    seen = cv2.warpPerspective(
        _around(source.shape, to_source, board), H, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
    )
    shared = (seen & _around(target.shape, to_target, board)) > 0
    here, there = _marks(target)[shared], warped[shared]
    if shared.mean() < _LEAST_AREA or min(here.std(), there.std()) < _LEAST_MARKS:
        return 0.0
    return float(np.corrcoef(here, there)[0, 1])


def _marks(picture: np.ndarray) -> np.ndarray:
    levels, side = picture.astype(np.float32), max(picture.shape)
    fine, coarse = (cv2.GaussianBlur(levels, (0, 0), share * side) for share in (_FINE, _COARSE))
    return fine - coarse


def _around(shape: tuple[int, ...], from_board: np.ndarray, board: Board) -> np.ndarray:
    """1 where a picture shows what is not the board, ``(H, W)`` uint8."""
    right, bottom = board[0] - 1 + _RIM, board[1] - 1 + _RIM
    outline = np.array([[[-_RIM, -_RIM], [right, -_RIM], [right, bottom], [-_RIM, bottom]]])
    outside = np.ones(shape[:2], np.uint8)
    cv2.fillConvexPoly(outside, cv2.perspectiveTransform(outline, from_board)[0].round().astype(np.int32), 0)
    return outside


def _from_board(corners: Tensor, board: Board, scale: float) -> np.ndarray:
    return homography_from_points(board_points(board), (corners + 0.5) * scale - 0.5).numpy()


def _mirror(board: Board) -> np.ndarray:
    """The reflection that maps a board onto itself, black onto black: along its even number of corners."""
    columns, rows = board
    if columns % 2:
        return np.array([[1.0, 0, 0], [0, -1, rows - 1], [0, 0, 1]])
    return np.array([[-1.0, 0, columns - 1], [0, 1, 0], [0, 0, 1]])
