"""Where the corners of a chessboard lie in each view of each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from vsad.calibration.chessboard import Board, find_corners, goes_on
from vsad.calibration.matching import gray_picture
from vsad.calibration.samples import choose_samples
from vsad.checks import check_images
from vsad.geometry import Size
from vsad.progress import Progress

# The longer side of pictures that are kept, in pixels.
_SIDE = 400


@dataclass
class BoardViews:
    """The boards that were found.

    Args:
        board: inner corners along its sides.
        size: ``(height, width)`` of the images.
        samples: names of the samples.
        corners: by sample and view, in pixels of the images; None where the whole board is not seen.
        pictures: by sample and view, gray and smaller, ``(h, w)`` uint8.
    """

    board: Board
    size: Size = (0, 0)
    samples: list[str] = field(default_factory=list)
    corners: list[list[Tensor | None]] = field(default_factory=list)
    pictures: list[list[np.ndarray]] = field(default_factory=list)

    @property
    def diagonal(self) -> float:
        return math.hypot(*self.size)

    @property
    def scale(self) -> float:
        """Pixels of the smaller pictures per pixel of the images."""
        return min(1.0, _SIDE / max(self.size))

    def of_view(self, view: int) -> list[Tensor]:
        """The corners of the boards that a view sees whole, each ``(K, 2)``."""
        return [corners for row in self.corners if (corners := row[view]) is not None]


def find_boards(
    images_per_sample: Any,
    views: Sequence[str],
    board: Board,
    mirrored: Sequence[str],
    max_samples: int,
    progress: Progress,
) -> BoardViews:
    """Find the whole boards in every view of the samples that ``choose_samples`` takes.

    Raises:
        TypeError: a sample is no tensor of floating point.
        ValueError: no sample, images of a wrong or changing shape, a board that goes on, or none in any view.
    """
    boards = BoardViews(board)
    chosen, total = choose_samples(images_per_sample, max_samples)
    for number, item in enumerate(progress.track(chosen, "finding boards", total)):
        images = item["images"] if isinstance(item, dict) else item
        shape = boards.size if number else ("H", "W")
        check_images(f"calibrate: sample {number}", images, (len(views), 3, *shape))
        boards.size = (images.shape[2], images.shape[3])
        boards.samples.append(str(item.get("id", number) if isinstance(item, dict) else number))
        boards.corners.append([])
        boards.pictures.append([])
        for view, image in zip(views, images):
            picture = gray_picture(image, boards.size)
            corners = find_corners(picture, board, mirrored=view in mirrored)
            if corners is not None and goes_on(picture, corners, board):
                raise ValueError(
                    f"calibrate: board must be all of the chessboard, which goes on beyond {board[0]}x{board[1]} inner "
                    f"corners in view {view} of sample {boards.samples[-1]}; count the corners where four squares meet"
                )
            boards.corners[-1].append(corners)
            smaller = [max(1, round(boards.scale * side)) for side in picture.shape[::-1]]
            boards.pictures[-1].append(cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA))
    if not boards.samples:
        raise ValueError("calibrate: images_per_sample must hold at least one sample, got none; check the folder")
    if all(corners is None for row in boards.corners for corners in row):
        raise ValueError(
            f"calibrate: samples must show a chessboard of {board[0]}x{board[1]} inner corners, got none in any view; "
            "count the corners where four squares meet, and let every camera see all of them"
        )
    return boards
