"""Pictures of a calibration: where each view was matched, and each pair of views before and after alignment."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.calibration.quality import covered_places
from vsad.calibration.report import CalibrationReport, PairReport
from vsad.checks import check_images
from vsad.geometry import Rig, RigPair

# The side of one picture in pixels, and what lies around it.
_SIDE, _GAP, _LINE = 480, 12, 34
_WHITE, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (120, 120, 120)
# Tiles along the longer side of an overlay that shows the target and the source in turns.
_TILES = 8
# Okabe and Ito's colors, which color-blind people can tell apart, RGB: a partner has one.
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))


def write_calibration_pictures(folder: str | Path, images: Tensor, rig: Rig, report: CalibrationReport) -> list[Path]:
    """Write what a person looks at before trusting a rig.

    ``view-<name>.jpg`` shows where the matches of a view lie, a color for each partner: the homography is sure there,
    and a guess elsewhere. ``pair-<target>-<source>.jpg`` shows both views, and tiles of the one and the other in turns,
    before and after alignment: lines go on across the tiles' borders where the homography is right.

    Args:
        folder: made if it is not there.
        images: ``(V, 3, H, W)`` float in [0, 1], one sample of the rig's views.
        rig: as ``calibrate`` made it.
        report: what it said.

    Returns:
        The files, views first.

    Raises:
        ValueError: images of another number of views, or of another size.
    """
    check_images("write_calibration_pictures", images, (len(rig.views), 3, *rig.size))
    folder, shrink = Path(folder), min(1.0, _SIDE / max(rig.size))
    pictures = {view: _resized(_rgb(image), shrink) for view, image in zip(rig.views, images)}
    files = {
        f"view-{_safe(view)}.jpg": _coverage(view, picture, report, rig, shrink) for view, picture in pictures.items()
    }
    for pair in rig.pairs:
        if rig.views.index(pair.target) < rig.views.index(pair.source) or _lone(pair, rig):
            files[f"pair-{_safe(pair.target)}-{_safe(pair.source)}.jpg"] = _overlay(pair, pictures, report, shrink)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / name, picture) for name, picture in files.items()]


def _lone(pair: RigPair, rig: Rig) -> bool:
    return not any((other.target, other.source) == (pair.source, pair.target) for other in rig.pairs)


def _coverage(view: str, picture: np.ndarray, report: CalibrationReport, rig: Rig, shrink: float) -> np.ndarray:
    """The view, dimmed where there are no matches, with a dot for each match in its partner's color."""
    pairs = [pair for pair in report.pairs if pair.target == view and pair.method != "failed"]
    points = torch.cat([pair.points for pair in pairs]) if pairs else torch.empty(0, 2, dtype=torch.float64)
    covered = covered_places(points, rig.size).numpy().astype(np.uint8)
    height, width = picture.shape[:2]
    there = cv2.resize(covered, (width, height), interpolation=cv2.INTER_NEAREST)[..., None] > 0
    canvas = np.where(there, picture, picture // 3)
    for pair in pairs:
        color = _COLORS[rig.views.index(pair.source) % len(_COLORS)]
        for x, y in ((pair.points + 0.5) * shrink - 0.5).round().int().tolist():
            cv2.circle(canvas, (x, y), 2, color, -1, cv2.LINE_AA)
    lines = [(f"{view}: matches in {covered.mean():.0%} of the picture", _INK)]
    lines += [(_partner(pair), _COLORS[rig.views.index(pair.source) % len(_COLORS)]) for pair in pairs]
    failed = [pair.source for pair in report.pairs if pair.target == view and pair.method == "failed"]
    lines += [(f"no homography to {', '.join(failed)}", _FAINT)] if failed else []
    return _captioned(canvas, lines)


def _partner(pair: PairReport) -> str:
    return f"{pair.source}: {pair.inliers} matches, {pair.covered:.0%} of the overlap"


def _overlay(pair: RigPair, pictures: dict[str, np.ndarray], report: CalibrationReport, shrink: float) -> np.ndarray:
    """Target, source, and tiles of both in turns before and after alignment, two by two."""
    target, source = pictures[pair.target], pictures[pair.source]
    height, width = target.shape[:2]
    scale = torch.diag(torch.tensor([shrink, shrink, 1.0], dtype=torch.float64))
    scale[:2, 2] = (shrink - 1) / 2
    H = (scale @ pair.homography @ torch.linalg.inv(scale)).numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(source, H, (width, height), flags=flags)
    ones = np.full((height, width), 255, np.uint8)
    seen = cv2.warpPerspective(ones, H, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    said = next(p for p in report.pairs if (p.target, p.source) == (pair.target, pair.source))
    found = f"{said.inliers} matches, error {said.held_out_px:.2f} px" + (", mirrored" if said.mirrored else "")
    parts = [
        _captioned(target, [(f"{pair.target}", _INK)]),
        _captioned(source, [(f"{pair.source}", _INK)]),
        _captioned(_in_turns(target, source, np.ones_like(seen)), [("in turns, before", _INK)]),
        _captioned(_in_turns(target, warped, seen), [("in turns, aligned: " + found, _INK)]),
    ]
    rows = [np.hstack(parts[:2]), np.hstack(parts[2:])]
    return np.vstack(rows)


def _in_turns(target: np.ndarray, source: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Tiles of the target and of the source like a chessboard's; the target's are dimmed where there is no source."""
    height, width = seen.shape
    tile = math.ceil(max(height, width) / _TILES)
    rows, columns = np.indices((height, width)) // tile
    theirs = ((rows + columns) % 2 == 1)[..., None]
    return np.where(seen[..., None], np.where(theirs, source, target), target // 3)


def _captioned(picture: np.ndarray, lines: list[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """The picture on white under lines of text, each after a spot of its color."""
    height, width = picture.shape[:2]
    side = max(width, 320)
    canvas = np.full((height + _LINE * len(lines) + 2 * _GAP, side + 2 * _GAP, 3), 255, np.uint8)
    for number, (text, color) in enumerate(lines):
        base = _GAP + _LINE * number + 22
        shift = 0
        if color not in (_INK, _FAINT):
            cv2.circle(canvas, (_GAP + 8, base - 6), 7, color, -1, cv2.LINE_AA)
            shift = 24
        ink = _FAINT if color == _FAINT else _INK
        _write_text(canvas, text, (_GAP + shift, base), side - shift, ink)
    top = _GAP + _LINE * len(lines)
    canvas[top : top + height, _GAP : _GAP + width] = picture
    return canvas


def _write_text(canvas: np.ndarray, text: str, place: tuple[int, int], width: int, color: tuple[int, int, int]) -> None:
    """Write a line of text that fits a width; OpenCV's letters are ASCII."""
    ascii_text = text.encode("ascii", "replace").decode()
    (wide, _), _ = cv2.getTextSize(ascii_text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    size = 0.6 * min(1.0, width / max(wide, 1))
    cv2.putText(canvas, ascii_text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def _rgb(image: Tensor) -> np.ndarray:
    levels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    return levels.permute(1, 2, 0).contiguous().numpy()


def _resized(picture: np.ndarray, shrink: float) -> np.ndarray:
    if shrink == 1:
        return picture
    height, width = (max(1, round(side * shrink)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _write(path: Path, picture: np.ndarray) -> Path:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    path.write_bytes(encoded.tobytes())
    return path
