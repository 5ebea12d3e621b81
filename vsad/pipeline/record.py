"""What is stored of one inspected sample: a JSON that other programs read, 16-bit maps and overlays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.data import Sample, ViewFile
from vsad.detection import Detection
from vsad.files import read_bytes, read_json, write_bytes, write_json
from vsad.metrics import as_numpy
from vsad.pipeline.detections_file import REMEDY
from vsad.report.pictures import Scale

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT, VERSION = "vsad-sample", 1
DEFECT, OK = "defect", "ok"
_STEPS = 2**16 - 1


@dataclass(frozen=True)
class Region:
    """A place of a view whose scores reach the threshold, its pixels joined by sides or corners.

    Args:
        x, y, width, height: the box around it, in pixels of the inspected images.
        area: number of its pixels.
        score: the highest of its scores; NaN where one is no number.
        peak_x, peak_y: where that is.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    score: float
    peak_x: int
    peak_y: int


@dataclass(frozen=True, kw_only=True)
class ViewRecord:
    """What was found in one view.

    Args:
        view: its name.
        image: the file that was inspected.
        part, parts: which of how many parts of that file, from the left.
        score: of the view; NaN where it is no number.
        unjudged: share of the picture that no view judges; None where all is judged.
        blind: share of the picture that the view itself does not judge, whether others do or not; None where that is
            not known.
        map: the file of its scores, 16-bit gray, relative to the folder: ``low + pixel / 65535 (high - low)``; None
            where maps were not asked for.
        low, high: of its scores.
        gap: the pixel of the map that stands for no number; None where all scores are numbers.
        overlay: the file of its picture with the scores over it; None where overlays were not asked for.
        regions: the highest score first.
    """

    view: str
    image: str
    part: int
    parts: int
    score: float
    unjudged: float | None
    blind: float | None = None
    map: str | None
    low: float
    high: float
    gap: int | None = None
    overlay: str | None
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class SampleRecord:
    """What was found in one sample.

    Args:
        id: its name.
        category: what kind of product it is.
        label: "good" or the kind of defect, where the data set says so; None where it is not known.
        score: the highest of its views' maps; NaN where one of them is no number.
        threshold: at or above which a sample is defective.
        verdict: "defect" or "ok".
        not_registered: why the sample was judged where it lay; None where it was registered, or none is.
        height, width: of the inspected images, in whose pixels regions are.
        views: in the detector's order.
    """

    id: str
    category: str
    label: str | None
    score: float
    threshold: float
    verdict: str
    not_registered: str | None
    height: int
    width: int
    views: tuple[ViewRecord, ...]

    @property
    def is_defect(self) -> bool:
        """Whether the verdict is DEFECT."""
        return self.verdict == DEFECT

    @property
    def shares(self) -> list[list[float] | None]:
        """What no view judges of every view, and what the view itself does not; None where that is not known."""
        unjudged, blind = ([getattr(view, name) for view in self.views] for name in ("unjudged", "blind"))
        return [None if None in shares else shares for shares in (unjudged, blind)]

    @property
    def files(self) -> dict[str, ViewFile]:
        """The images that were inspected."""
        return {each.view: ViewFile(Path(each.image), each.part, each.parts) for each in self.views}

    @property
    def content(self) -> dict[str, Any]:
        """What JSON holds of the record: null for a score that is no number."""
        return dict(_with_scores(asdict(self), number_or_none))

    @property
    def line(self) -> str:
        """The record as a line of JSON."""
        return json.dumps(self.content, allow_nan=False)

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        write_json(path, {"format": FORMAT, "version": VERSION, **self.content})

    @classmethod
    def read(cls, path: Path) -> SampleRecord:
        """Read what ``write`` wrote.

        Raises:
            FileNotFoundError, ValueError: the file is missing, or is no record.
        """
        from pydantic import ValidationError

        content = read_json(path, REMEDY)
        if content.pop("format", None) != FORMAT or content.pop("version", None) != VERSION:
            raise ValueError(f'{path}: must be an object with "format": "{FORMAT}" and "version": {VERSION}; {REMEDY}')
        try:
            content = _with_scores(content, or_nan)
            return _reader().validate_python(content)  # fields that a later version adds are passed over
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{path}: must be what was found in a sample, got {first['input']!r:.60} for {where or 'all'}; {REMEDY}"
            ) from None


def number_or_none(score: float) -> float | None:
    """A score as JSON holds it: None where it is NaN or infinite."""
    return score if math.isfinite(score) else None


def or_nan(score: Any) -> Any:
    """A score as JSON held it: NaN where it is None."""
    return math.nan if score is None else score


def _with_scores(content: Any, change: Callable[[Any], Any]) -> Any:
    """The content of a record with all of its scores changed."""
    if isinstance(content, dict):
        return {key: change(part) if key == "score" else _with_scores(part, change) for key, part in content.items()}
    return [_with_scores(part, change) for part in content] if isinstance(content, (list, tuple)) else content


@cache
def _reader() -> TypeAdapter[SampleRecord]:
    """What checks the fields of a record; to make it takes longer than to read one."""
    from pydantic import TypeAdapter

    return TypeAdapter(SampleRecord)


def check_names(sample: Sample) -> None:
    """Refuse a sample whose name, or a file's, JSON cannot hold.

    Raises:
        ValueError: a name is written in another encoding than UTF-8.
    """
    for name in (sample.id, *(str(file.path.absolute()) for file in sample.images.values())):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name!r}: must be a name in UTF-8, got one in another encoding; rename it") from None


def regions_of(scores: np.ndarray, threshold: float) -> tuple[Region, ...]:
    """The regions of a map ``(H, W)`` whose scores reach a threshold or are no number, the highest first."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(_reached(scores, threshold), connectivity=8)
    ranks = np.where(np.isfinite(scores), scores, np.inf)
    found = []
    for label, (x, y, width, height, area) in enumerate(boxes.tolist()[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        inside = np.where(labels[box] == label, ranks[box], -np.inf)
        row, column = divmod(int(inside.argmax()), width)
        score = float(inside.max())
        found.append(Region(x, y, width, height, area, score, x + column, y + row))
    found.sort(key=lambda region: -region.score)
    return tuple(region if math.isfinite(region.score) else replace(region, score=math.nan) for region in found)


def _reached(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Where a map reaches a threshold or is no number, uint8."""
    return (~(np.isfinite(scores) & (scores < threshold))).astype(np.uint8)


def range_of(scores: np.ndarray) -> tuple[float, float, int | None]:
    """The ends of what a map's file holds, and the pixel that stands for no number; None where all are numbers.

    That pixel is the highest one, and the upper end a step above the highest score: whoever does not ask for it takes
    what is no number for more than any score.
    """
    known = scores[np.isfinite(scores)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if known.size == scores.size:
        return low, high, None
    return low, low + (high - low or 1.0) * (_STEPS / (_STEPS - 1)), _STEPS


def write_map(path: Path, scores: np.ndarray) -> None:
    """Write a map ``(H, W)`` as 16-bit gray, as ``range_of`` says."""
    low, high, gap = range_of(scores)
    known = np.isfinite(scores)
    steps = np.rint(
        (np.where(known, scores, low).astype(np.float64) - low) * (_STEPS / (high - low) if high > low else 0)
    )
    _write_picture(path, np.where(known, steps, gap or 0).astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def read_map(path: Path, low: float, high: float, gap: int | None = None) -> Tensor:
    """Read what ``write_map`` wrote, ``(H, W)`` float32, within ``(high - low) / 131070`` of what it was.

    Args:
        path: of the file.
        low, high: its ends.
        gap: the pixel that stands for no number, and is read as NaN.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or is no such picture.
    """
    steps = cv2.imdecode(np.frombuffer(read_bytes(path, REMEDY), np.uint8), cv2.IMREAD_UNCHANGED)
    if steps is None or steps.ndim != 2 or steps.dtype != np.uint16:
        raise ValueError(f"{path}: must be a 16-bit gray picture, got another file; {REMEDY}")
    scores = low + steps.astype(np.float64) * ((high - low) / _STEPS)
    if gap is not None:
        scores[steps == gap] = np.nan
    return torch.from_numpy(scores.astype(np.float32))


def write_overlay(path: Path, image: Tensor, scores: np.ndarray, threshold: float) -> None:
    """Write a picture ``(3, H, W)`` in [0, 1] with its scores over it, and lines around what reaches the threshold.

    Colors are those of reports. What is no number looks like the highest score.
    """
    picture = np.ascontiguousarray((255 * as_numpy(image)).round().astype(np.uint8)[::-1].transpose(1, 2, 0))
    scale = Scale(threshold)
    shares = np.where(np.isfinite(scores), scale.share(np.nan_to_num(scores)), 1)
    heat = scale.colors[(255 * shares).round().astype(np.uint8)]
    opacity = heat[..., 3:] / 255
    picture = np.rint(picture * (1 - opacity) + heat[..., :3] * opacity).astype(np.uint8)
    outlines, _ = cv2.findContours(_reached(scores, threshold), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), max(1, round(max(scores.shape) / 400)), cv2.LINE_AA)
    _write_picture(path, picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


def _write_picture(path: Path, picture: np.ndarray, options: Sequence[int]) -> None:
    write_bytes(path, cv2.imencode(path.suffix, picture, list(options))[1].tobytes())


def record_of(
    sample: Sample, found: Detection, threshold: float, views: Sequence[str], *, maps: bool, overlays: bool
) -> SampleRecord:
    """The record of a sample, with the names of the files that belong to it."""
    scores, score = as_numpy(found.maps), float(found.sample_score)
    unjudged, blind = (
        [None] * len(views) if shares is None else shares.tolist() for shares in (found.unjudged, found.blind)
    )
    ranges = [range_of(each) for each in scores]
    return SampleRecord(
        id=sample.id, category=sample.category, label=sample.defect, score=score, threshold=threshold,
        verdict=DEFECT if found.is_defect(threshold) else OK, not_registered=found.reason,
        height=scores.shape[1], width=scores.shape[2],
        views=tuple(
            ViewRecord(
                view=view, image=str(sample.images[view].path.absolute()), part=sample.images[view].part,
                parts=sample.images[view].parts, score=float(found.view_scores[v]),
                unjudged=unjudged[v], blind=blind[v],
                map=f"maps/{sample.id}/{view}.png" if maps else None,
                low=ranges[v][0], high=ranges[v][1], gap=ranges[v][2],
                overlay=f"overlays/{sample.id}/{view}.jpg" if overlays else None,
                regions=regions_of(scores[v], threshold),
            )
            for v, view in enumerate(views)
        ),
    )  # fmt: skip
