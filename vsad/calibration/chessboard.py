"""The inner corners of a chessboard in a picture, in an order that every camera agrees on."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.geometry import homography_from_points, transform_points

Board = tuple[int, int]
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-3)
# The corners' neighborhood in which edges are looked at, as a share of the distance to the next corner; in pixels.
_WINDOW, _WINDOWS = 0.25, (2, 11)


def checked_board(board: Board) -> Board:
    """Return the inner corners along the longer and along the shorter side.

    Raises:
        ValueError: fewer than three along a side, or a board that looks alike when it is turned by a half.
    """
    long, short = max(board), min(board)
    if short < 3:
        raise ValueError(f"calibrate: board must have at least 3 x 3 inner corners, got {board[0]}x{board[1]}")
    if (long + short) % 2 == 0:
        raise ValueError(
            f"calibrate: board must have an odd number of inner corners along one side and an even number along the "
            f"other, such as 9x6, or nothing tells it from itself turned by a half; got {board[0]}x{board[1]}"
        )
    return long, short


def board_points(board: Board) -> Tensor:
    """The inner corners in units of a square, row by row along the longer side, ``(K, 2)`` float64."""
    y, x = torch.meshgrid(torch.arange(board[1]).double(), torch.arange(board[0]).double(), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def find_corners(picture: np.ndarray, board: Board, *, mirrored: bool = False) -> Tensor | None:
    """Find the inner corners of a board that lies anywhere, and whichever way round.

    The board's black and white squares, and whether the camera mirrors, leave one order of four.

    Args:
        picture: uint8 ``(H, W)``.
        board: inner corners along the longer and the shorter side, one odd and one even.
        mirrored: the camera sees its world in a mirror, which the board itself does not tell.

    Returns:
        The corners ``(K, 2)`` float64 in pixels of the picture, in the order of ``board_points``; None where there is
        no such board.

    Source: Duda and Frese, "Accurate detection and localization of checkerboard corners for calibration", 2018.
    """
    found, corners = cv2.findChessboardCornersSB(picture, board, flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not found:
        found, corners = cv2.findChessboardCorners(picture, board)
    if not found:
        return None
    grid = _sharpened(picture, corners.reshape(board[1], board[0], 2))
    orders = (grid, grid[::-1], grid[:, ::-1], grid[::-1, ::-1])
    for order in orders:
        points = torch.from_numpy(order.reshape(-1, 2).astype(np.float64))
        H = homography_from_points(board_points(board), points)
        if (float(torch.linalg.det(H)) < 0) == mirrored and _starts_black(picture, H, board):
            return points
    return None


def goes_on(picture: np.ndarray, corners: Tensor, board: Board) -> bool:
    """Whether the squares go on beyond those around the corners: the board is larger, and these are a part of it."""
    H = homography_from_points(board_points(board), corners)
    columns, rows = board
    x, y = torch.arange(columns + 1).double() - 0.5, torch.arange(rows + 1).double() - 0.5
    beyond = (
        torch.stack([x, torch.full_like(x, -1.5)], -1), torch.stack([x, torch.full_like(x, rows + 0.5)], -1),
        torch.stack([torch.full_like(y, -1.5), y], -1), torch.stack([torch.full_like(y, columns + 0.5), y], -1),
    )  # fmt: skip
    contrast = _colors_apart(picture, H, board_points((columns - 1, rows - 1)) + 0.5)
    return any(abs(_colors_apart(picture, H, squares)) > 0.5 * abs(contrast) for squares in beyond)


def bend(corners: Tensor, board: Board) -> float:
    """How far a row or column of corners bends away from a straight line at most, in pixels: the lens's doing."""
    grid = corners.reshape(board[1], board[0], 2)
    farthest = 0.0
    for lines in (grid, grid.transpose(0, 1)):
        centered = lines - lines.mean(1, keepdim=True)  # (lines, K, 2)
        normal = torch.linalg.svd(centered).Vh[:, 1, :, None]  # (lines, 2, 1)
        farthest = max(farthest, float((centered @ normal).abs().max()))
    return farthest


def _sharpened(picture: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Move corners, ``(rows, columns, 2)``, onto the saddles of brightness, each regardless of the others."""
    steps = [np.linalg.norm(np.diff(grid, axis=axis), axis=-1).min() for axis in (0, 1)]
    window = int(np.clip(_WINDOW * min(steps), *_WINDOWS))
    start = np.ascontiguousarray(grid.reshape(-1, 1, 2), np.float32)
    return cv2.cornerSubPix(picture, start, (window, window), (-1, -1), _CRITERIA).reshape(grid.shape)


def _starts_black(picture: np.ndarray, H_picture_from_board: Tensor, board: Board) -> bool:
    """Whether the square between the first corners of the first two rows is of the black ones."""
    return _colors_apart(picture, H_picture_from_board, board_points((board[0] - 1, board[1] - 1)) + 0.5) < 0


def _colors_apart(picture: np.ndarray, H_picture_from_board: Tensor, squares: Tensor) -> float:
    """How much brighter the squares of the first one's color are than the others; 0 where few are in the picture.

    The ``squares (K, 2)`` are given by their middles.
    """
    mapped, in_front = transform_points(H_picture_from_board, squares, return_mask=True)
    x, y = mapped.round().long().unbind(-1)
    inside = in_front & (x >= 0) & (y >= 0) & (x < picture.shape[1]) & (y < picture.shape[0])
    levels = torch.from_numpy(picture)[y[inside], x[inside]].double()
    even = (squares.floor().sum(-1) % 2 == 0)[inside]
    if min(int(even.sum()), int((~even).sum())) < 2:
        return 0.0
    return float(levels[even].median() - levels[~even].median())
