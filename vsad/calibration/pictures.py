"""Pictures of a calibration: where each view was matched, and each pair of views before and after alignment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.calibration.quality import covered_places, seen_places
from vsad.calibration.report import CalibrationReport, PairReport
from vsad.checks import check_images
from vsad.geometry import Rig, RigPair

# The longer side of one picture in pixels, how far small images are enlarged for it, and what lies around it.
_SIDE, _LARGEST, _GAP, _LINE = 400, 2.0, 12, 30
_INK, _DOT = (30, 30, 30), (255, 210, 0)
# Brightness where the partner sees nothing, and where it does but nothing was matched.
_UNSEEN, _UNMATCHED = 0.2, 0.5
# Tiles along the longer side of an overlay that shows the target and the source in turns.
_TILES = 8


def write_calibration_pictures(folder: str | Path, images: Tensor, rig: Rig, report: CalibrationReport) -> list[Path]:
    """Write what a person looks at before trusting a rig.

    ``view-<name>.jpg`` shows for each partner which part of the view it sees, bright where matches lie: the
    homography is sure there, and continued elsewhere. ``pair-<target>-and-<source>.jpg`` shows both views, and tiles of
    the one and the other in turns, before and after alignment: lines go on across the tiles' borders where the
    homography is right.

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
    scale = min(_LARGEST, _SIDE / max(rig.size))
    pictures = {view: _resized(image, scale) for view, image in zip(rig.views, images)}
    said = {(pair.target, pair.source): pair for pair in report.pairs}
    files = {_name("view", view): _coverage(view, pictures[view], rig, said, scale) for view in rig.views}
    drawn = set()
    for pair in rig.pairs:
        if (pair.source, pair.target) not in drawn:
            drawn.add((pair.target, pair.source))
            report_of_pair = said[pair.target, pair.source]
            files[_name("pair", pair.target, pair.source)] = _overlay(pair, pictures, report_of_pair, scale)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for two in itertools.permutations(rig.views, 2):
        if _name("pair", *two) not in files:  # of an earlier calibration
            (folder / _name("pair", *two)).unlink(missing_ok=True)
    return [_write(folder / name, picture) for name, picture in files.items()]


def _coverage(
    view: str, picture: np.ndarray, rig: Rig, said: dict[tuple[str, str], PairReport], scale: float
) -> np.ndarray:
    """The view as each of its partners sees it: matches as dots, dim without matches, dark where it is not seen."""
    panels = []
    for pair in (pair for pair in rig.pairs if pair.target == view):
        found = said[pair.target, pair.source]
        light = np.where(seen_places(pair.homography, rig.size), _UNMATCHED, _UNSEEN)
        light[covered_places(found.points, rig.size).numpy()] = 1.0
        canvas = picture * cv2.resize(light, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)[..., None]
        canvas = canvas.round().astype(np.uint8)
        dots = canvas.copy()
        for x, y in ((found.points + 0.5) * scale - 0.5).round().int().tolist():
            cv2.circle(dots, (x, y), 1, _DOT, -1)
        canvas = cv2.addWeighted(canvas, 0.3, dots, 0.7, 0)
        panels.append(_captioned(canvas, f"{view} with {pair.source}: matches in {found.covered:.0%} of the overlap"))
    if not panels:
        return _captioned((picture * _UNSEEN).astype(np.uint8), f"{view}: no partner")
    return _arranged(panels)


def _overlay(pair: RigPair, pictures: dict[str, np.ndarray], said: PairReport, scale: float) -> np.ndarray:
    """Target, source, and tiles of both in turns before and after alignment, two by two."""
    target, source = pictures[pair.target], pictures[pair.source]
    height, width = target.shape[:2]
    S = torch.tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    H = (S @ pair.homography @ torch.linalg.inv(S)).numpy()
    flags = cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(source, H, (width, height), flags=flags | cv2.INTER_LINEAR)
    ones = np.ones((height, width), np.uint8)
    seen = cv2.warpPerspective(ones, H, (width, height), flags=flags | cv2.INTER_NEAREST) > 0
    error = "" if math.isnan(said.held_out_px) else f", error {said.held_out_px:.2f} px"
    return _arranged([
        _captioned(target, pair.target),
        _captioned(source, pair.source + (", mirrored" if said.mirrored else "")),
        _captioned(_in_turns(target, source, ones > 0), "in turns, before"),
        _captioned(_in_turns(target, warped, seen), f"in turns, aligned: {said.inliers} matches{error}"),
    ])  # fmt: skip


def _in_turns(target: np.ndarray, source: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Tiles of the target and of the source like a chessboard's; the target alone, dark, where there is no source."""
    height, width = seen.shape
    rows, columns = np.indices((height, width)) // math.ceil(max(height, width) / _TILES)
    theirs = (rows + columns) % 2 == 1
    alone = (target * _UNSEEN).astype(np.uint8)
    return np.where(seen[..., None], np.where(theirs[..., None], source, target), alone)


def _arranged(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size, two in a row."""
    blank = [np.full_like(panels[0], 255)] * (len(panels) % 2 if len(panels) > 1 else 0)
    panels = [*panels, *blank]
    rows = [np.hstack(panels[first : first + 2]) for first in range(0, len(panels), 2)]
    return np.vstack(rows)


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture on white under a line of text."""
    height, width = picture.shape[:2]
    canvas = np.full((height + _LINE + _GAP, max(width, _SIDE) + _GAP, 3), 255, np.uint8)
    letters = text.encode("ascii", "replace").decode()  # OpenCV draws no others
    (wide, _), _ = cv2.getTextSize(letters, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    size = 0.6 * min(1.0, (canvas.shape[1] - 2 * _GAP) / max(wide, 1))
    cv2.putText(canvas, letters, (_GAP, _LINE - 8), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
    canvas[_LINE : _LINE + height, _GAP : _GAP + width] = picture
    return canvas


def _resized(image: Tensor, scale: float) -> np.ndarray:
    """An image ``(3, H, W)`` in [0, 1] as uint8 ``(h, w, 3)``."""
    levels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    height, width = (max(1, round(side * scale)) for side in levels.shape[:2])
    return cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _name(kind: str, *views: str) -> str:
    return "".join("_" if letter in "/\\" else letter for letter in f"{kind}-{'-and-'.join(views)}.jpg")


def _write(path: Path, picture: np.ndarray) -> Path:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    path.write_bytes(encoded.tobytes())
    return path
