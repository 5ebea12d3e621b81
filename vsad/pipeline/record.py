"""What is stored of one inspected sample: a JSON that other programs read, 16-bit maps and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.data import Sample, ViewFile
from vsad.detection import Detection, is_defect
from vsad.files import read_bytes, read_json, write_bytes, write_json
from vsad.metrics import as_numpy
from vsad.pipeline.detections_file import REMEDY
from vsad.report.pictures import Scale

FORMAT, VERSION = "vsad-sample", 1
DEFECT, OK = "defect", "ok"
_STEPS = 2**16 - 1


@dataclass(frozen=True)
class Region:
    """A place of a view whose scores reach the threshold, its pixels joined by sides or corners.

    Args:
        x, y, width, height: the box around it, in pixels of the inspected images.
        area: number of its pixels.
        score: the highest of its scores.
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


@dataclass(frozen=True)
class ViewRecord:
    """What was found in one view.

    Args:
        view: its name.
        image: the file that was inspected.
        part, parts: which of how many parts of that file, from the left.
        score: of the view.
        unjudged: share of the picture that no view judges; None where all is judged.
        map: the file of its scores, 16-bit gray, relative to the folder: ``low + pixel / 65535 (high - low)``; None
            where maps were not asked for.
        low, high: of its scores.
        overlay: the file of its picture with the scores over it; None where overlays were not asked for.
        regions: the highest score first.
    """

    view: str
    image: str
    part: int
    parts: int
    score: float
    unjudged: float | None
    map: str | None
    low: float
    high: float
    overlay: str | None
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class SampleRecord:
    """What was found in one sample.

    Args:
        id: its name.
        category: what kind of product it is.
        label: "good" or the kind of defect, where the data set says so; None where it is not known.
        score: the highest of its views' maps.
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
    def files(self) -> dict[str, ViewFile]:
        """The images that were inspected."""
        return {each.view: ViewFile(Path(each.image), each.part, each.parts) for each in self.views}

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> SampleRecord:
        """Read what ``write`` wrote.

        Raises:
            FileNotFoundError, ValueError: the file is missing, or is no record.
        """
        from pydantic import TypeAdapter, ValidationError

        content = read_json(path, REMEDY)
        if content.pop("format", None) != FORMAT or content.pop("version", None) != VERSION:
            raise ValueError(f'{path}: must be an object with "format": "{FORMAT}" and "version": {VERSION}; {REMEDY}')
        try:
            return TypeAdapter(cls).validate_python(content)  # fields that a later version adds are passed over
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{path}: must be what was found in a sample, got {first['input']!r:.60} for {where or 'all'}; {REMEDY}"
            ) from None


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
    """The regions of a map ``(H, W)`` whose scores reach a threshold, the highest first."""
    reached = (~(scores < threshold)).astype(np.uint8)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(reached, connectivity=8)
    found = []
    for label, (x, y, width, height, area) in enumerate(boxes.tolist()[1:], start=1):
        inside = np.where(
            labels[y : y + height, x : x + width] == label, scores[y : y + height, x : x + width], -np.inf
        )
        row, column = divmod(int(inside.argmax()), width)
        found.append(Region(x, y, width, height, area, float(inside.max()), x + column, y + row))
    return tuple(sorted(found, key=lambda region: -region.score))


def write_map(path: Path, scores: np.ndarray) -> None:
    """Write a map ``(H, W)`` as 16-bit gray, from its lowest score to its highest."""
    low, high = float(scores.min()), float(scores.max())
    steps = np.rint((scores.astype(np.float64) - low) * (_STEPS / (high - low) if high > low else 0))
    _write_picture(path, steps.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def read_map(path: Path, low: float, high: float) -> Tensor:
    """Read what ``write_map`` wrote, ``(H, W)`` float32, within ``(high - low) / 131070`` of what it was.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or is no such picture.
    """
    steps = cv2.imdecode(np.frombuffer(read_bytes(path, REMEDY), np.uint8), cv2.IMREAD_UNCHANGED)
    if steps is None or steps.ndim != 2 or steps.dtype != np.uint16:
        raise ValueError(f"{path}: must be a 16-bit gray picture, got another file; {REMEDY}")
    return torch.from_numpy((low + steps.astype(np.float64) * ((high - low) / _STEPS)).astype(np.float32))


def write_overlay(path: Path, image: Tensor, scores: np.ndarray, threshold: float) -> None:
    """Write a picture ``(3, H, W)`` in [0, 1] with its scores over it, and lines around what reaches the threshold.

    Colors are those of reports.
    """
    picture = np.ascontiguousarray((255 * as_numpy(image)).round().astype(np.uint8)[::-1].transpose(1, 2, 0))
    scale = Scale(threshold)
    heat = scale.colors[(255 * scale.share(scores)).round().astype(np.uint8)]
    opacity = heat[..., 3:] / 255
    picture = np.rint(picture * (1 - opacity) + heat[..., :3] * opacity).astype(np.uint8)
    outlines, _ = cv2.findContours((~(scores < threshold)).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), max(1, round(max(scores.shape) / 400)), cv2.LINE_AA)
    _write_picture(path, picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


def _write_picture(path: Path, picture: np.ndarray, options: Sequence[int]) -> None:
    write_bytes(path, cv2.imencode(path.suffix, picture, list(options))[1].tobytes())


def record_of(
    sample: Sample, found: Detection, threshold: float, views: Sequence[str], *, maps: bool, overlays: bool
) -> SampleRecord:
    """The record of a sample, with the names of the files that belong to it."""
    scores = as_numpy(found.maps)
    score = float(found.sample_score)
    unjudged = [None] * len(views) if found.unjudged is None else found.unjudged.tolist()
    return SampleRecord(
        id=sample.id, category=sample.category, label=sample.defect, score=score, threshold=threshold,
        verdict=DEFECT if is_defect(score, threshold, unjudged) else OK, not_registered=found.reason,
        height=scores.shape[1], width=scores.shape[2],
        views=tuple(
            ViewRecord(
                view=view, image=str(sample.images[view].path.absolute()), part=sample.images[view].part,
                parts=sample.images[view].parts, score=float(found.view_scores[v]), unjudged=unjudged[v],
                map=f"maps/{sample.id}/{view}.png" if maps else None,
                low=float(scores[v].min()), high=float(scores[v].max()),
                overlay=f"overlays/{sample.id}/{view}.jpg" if overlays else None,
                regions=regions_of(scores[v], threshold),
            )
            for v, view in enumerate(views)
        ),
    )  # fmt: skip
