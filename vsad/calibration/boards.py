"""Calibrate a station with a chessboard that all cameras see: exact homographies of the plane that it lies in."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from vsad.calibration.board_views import BoardViews, find_boards
from vsad.calibration.chessboard import Board, bend, board_points, checked_board
from vsad.calibration.lens import off_flat, off_flat_without_lens
from vsad.calibration.mirrors import told_by_surroundings
from vsad.calibration.quality import covered_share
from vsad.calibration.report import CalibrationReport, PairReport, describe_problems
from vsad.calibration.samples import view_names
from vsad.geometry import (
    Rig,
    RigPair,
    homography_from_points,
    orient_homography,
    overlap_fraction,
    transform_points,
)
from vsad.geometry.graph_name import parse_graph
from vsad.progress import SILENT, Progress

# Boards of one plane, seen by two cameras, agree on one homography to so many times what each of them agrees with
# itself, or to this share of the diagonal, which is 1.6 pixels for an image of 640 x 480.
_SAME_PLANE, _SAME_SHARE = 3.0, 0.002
# A lens that bends a row of corners by this share of the diagonal is worth a word.
_BENT = 0.001
# A lens that leaves less than this share of an error was most of it.
_LENS = 0.5
# Views that a warning names.
_NAMED = 5


def calibrate_chessboard(
    images_per_sample: Iterable[Any],
    views: Sequence[str] | None = None,
    *,
    board: Board = (9, 6),
    mirrored: Sequence[str] = (),
    graph: str | Iterable[tuple[str, str]] = "overlap",
    max_neighbors: int | None = None,
    max_samples: int = 8,
    progress: Progress = SILENT,
) -> tuple[Rig, CalibrationReport]:
    """Find the homographies between fixed cameras from images of a chessboard that lies where products lie.

    A homography is of one plane: lay the board flat where the products' surface will be. Several samples, with the
    board moved about **in that plane**, are pooled; a board in another plane is refused. The corners' order is told by
    the squares' colors, so the cameras may look from any side.

    Convention: homographies map target to source pixels, pixel centers are integers; everything is reported in
    pixels of the given images.

    Args:
        images_per_sample: as of ``calibrate``.
        views: names of the views; default the data set's own ``views``.
        board: inner corners along its sides, one odd and one even number: of 9 x 6 squares' corners, ``(9, 6)``.
        mirrored: names of the views whose cameras look into a mirror, which a chessboard does not tell.
        graph: which pairs become neighbors, as ``Rig.from_pairs`` takes it.
        max_neighbors: maximum number of neighbors of each view.
        max_samples: maximum number of samples to use, spread evenly over a data set, or the first ones of an iterable.
        progress: told of the samples that are done.

    Returns:
        The rig, and a report on every ordered pair. A pair that never sees the board at once is left out with a
        warning, and so is a lens named that bends the board's rows.

    Raises:
        TypeError: a sample is no tensor of floating point.
        ValueError: a board that looks alike when turned or is a part of a larger one, names that are no views, samples
            of several planes, no sample, or images of a wrong or changing shape.

    Example:
        >>> squares = ((torch.arange(10)[:, None] + torch.arange(7)) % 2).float().kron(torch.ones(16, 16))
        >>> board = torch.nn.functional.pad(squares, (24, 24, 24, 24), value=1.0)
        >>> picture = torch.nn.functional.avg_pool2d(board.expand(3, -1, -1), 3, 1, 1)
        >>> rig, report = calibrate_chessboard([torch.stack((picture, picture.flip(1, 2)))], ["a", "turned"])
        >>> transform_points(rig.homographies[0, 0], torch.tensor([[10.0, 20.0]])).round().tolist()
        [[149.0, 187.0]]
    """
    if max_samples < 1:
        raise ValueError(f"calibrate: max_samples must be at least 1, got {max_samples}")
    board, views = checked_board(board), view_names(images_per_sample, views)
    for name in mirrored:
        if name not in views:
            raise ValueError(f"calibrate: mirrored must name views of {', '.join(views)}, got {name!r}")
    if isinstance(graph, str):
        parse_graph(graph, views)
    boards = find_boards(images_per_sample, views, board, mirrored, max_samples, progress)
    size = boards.size

    pairs, reports = [], []
    for target, source in itertools.permutations(range(len(views)), 2):
        report, pair = _fit_pair(boards, (target, source), views)
        reports.append(report)
        pairs += [pair] if pair else []
    rig = Rig.from_pairs(views, size, pairs, graph=graph, max_neighbors=max_neighbors)
    wrong, open_views = told_by_surroundings(boards, views)
    result = CalibrationReport(len(boards.corners), tuple(reports), tuple(open_views))
    for problem in [*describe_problems(rig, result), *_bent_lenses(boards, views), *_wrong_mirrors(wrong, mirrored)]:
        warnings.warn(f"calibrate: {problem}", stacklevel=2)
    return rig, result


def _fit_pair(boards: BoardViews, pair: tuple[int, int], views: Sequence[str]) -> tuple[PairReport, RigPair | None]:
    """Fit one ordered pair to the samples in which both views see the board."""
    names = views[pair[0]], views[pair[1]]
    both = {name: (row[pair[0]], row[pair[1]]) for name, row in zip(boards.samples, boards.corners)}
    seen = {name: (a, b) for name, (a, b) in both.items() if a is not None and b is not None}
    if not seen:
        blind = [view for view, index in zip(names, pair) if all(row[index] is None for row in boards.corners)]
        reason = f"no whole board in {' and '.join(blind)}" if blind else "never the whole board in both at once"
        return PairReport(*names, "failed", reason=reason), None
    target, source = (torch.cat(points) for points in zip(*seen.values()))
    H = orient_homography(homography_from_points(target, source), boards.size)
    H = H / H[2].abs().max()
    _check_plane(H, seen, names, boards.diagonal)
    error_px = _rms(H, target, source)
    report = PairReport(
        *names, "chessboard", "", bool(torch.linalg.det(H) < 0), len(target), len(target), error_px,
        _held_out(target, source, boards.board), float(overlap_fraction(H, boards.size)),
        covered_share(H, target, boards.size), points=target,
    )  # fmt: skip
    return report, RigPair(*names, H, len(target), error_px)


def _check_plane(H: Tensor, seen: dict[str, tuple[Tensor, Tensor]], names: tuple[str, str], diagonal: float) -> None:
    """Refuse samples whose boards lie in several planes: no homography is theirs."""
    for sample, (target, source) in seen.items():
        alone, pooled = _rms(homography_from_points(target, source), target, source), _rms(H, target, source)
        if pooled > max(_SAME_SHARE * diagonal, _SAME_PLANE * alone):
            raise ValueError(
                f"calibrate: samples must show the board in one plane, where products lie, but the homography between "
                f"{names[0]} and {names[1]} errs by {pooled:.1f} px in sample {sample}, where the board alone has one "
                f"that errs by {alone:.1f} px; keep the samples of one plane, one is enough"
            )


def _held_out(target: Tensor, source: Tensor, board: Board) -> float:
    """The error of each half of the corners by a homography of the other half, parted as a chessboard's colors are."""
    black = board_points(board).sum(-1).repeat(len(target) // (board[0] * board[1])) % 2 == 0
    errors = []
    for half in (black, ~black):
        H = homography_from_points(target[~half], source[~half])
        errors.append(transform_points(H, target[half]) - source[half])
    return float(torch.cat(errors).square().sum(-1).mean().sqrt())


def _rms(H: Tensor, target: Tensor, source: Tensor) -> float:
    return float((transform_points(H, target) - source).square().sum(-1).mean().sqrt())


def _wrong_mirrors(pairs: list[str], mirrored: Sequence[str]) -> list[str]:
    """Say which pairs of views the pictures around the board contradict."""
    if not pairs:
        return []
    named = ", ".join(mirrored) or "no view"
    return [
        "around the board, pictures agree only if one of the two views sees in a mirror and the other does not, unlike "
        f"what was said (mirrored: {named}): {', '.join(pairs)}; name the views that see in a mirror (--mirrored)"
    ]


def _bent_lenses(boards: BoardViews, views: Sequence[str]) -> list[str]:
    """Say where straight rows are bent by more than a homography can follow, and whether a lens does it."""
    lenses: list[tuple[float, str]] = []
    others: list[tuple[float, str]] = []
    for v, view in enumerate(views):
        corners = boards.of_view(v)
        if max((bend(found, boards.board) for found in corners), default=0.0) > _BENT * boards.diagonal:
            bent = off_flat(corners, boards.board)
            straight = off_flat_without_lens(corners, boards.board, boards.size)
            said = f"{view} ({bent:.2f} px, {straight:.2f} px without it)"
            (lenses if straight < _LENS * bent else others).append((bent, said))
    problems = []
    if lenses:
        problems.append(
            "a homography keeps straight rows straight, and the lens bends the board's, which is what limits it in "
            f"{_worst(lenses)}; estimate the lens (vsad lens), and undistort the images of these views "
            "(vsad undistort), here and for every later step"
        )
    if others:
        problems.append(
            f"the board's rows are not straight in {_worst(others)}, and a lens explains little of it; lay the "
            "board flat, and see that it neither moves nor is out of focus"
        )
    return problems


def _worst(said: list[tuple[float, str]]) -> str:
    """What is said of the views that are farthest off."""
    named = [text for _, text in sorted(said, reverse=True)[:_NAMED]]
    return ", ".join(named) + (f" and {len(said) - _NAMED} more" if len(said) > _NAMED else "")
