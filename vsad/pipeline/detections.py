"""The folder of inspected samples: written as each is done, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vsad.data import Cameras, MultiViewDataset, Sample
from vsad.detection import Detection, is_defect
from vsad.files import RunFolder, read_run, write_json
from vsad.geometry import Rig
from vsad.metrics import as_numpy
from vsad.pipeline.detections_file import FILE, FORMAT, REMEDY, VERSION, read_detections
from vsad.pipeline.record import (
    DEFECT,
    OK,
    SampleRecord,
    read_map,
    record_of,
    regions_of,
    write_map,
    write_overlay,
)  # fmt: skip
from vsad.pipeline.stages import check_free, stamp
from vsad.pipeline.verdicts import Verdict, Verdicts

# The folders of the samples' files.
_KINDS = ("samples", "maps", "overlays")
RIG = "rig.json"


class Header(NamedTuple):
    """What all samples of a folder share.

    Args:
        category: what kind of product they are.
        cameras: those of the detector.
        threshold: at or above which a sample is defective.
        chosen: how the threshold was chosen, in words.
        maps, overlays: whether these are written.
    """

    category: str
    cameras: Cameras
    threshold: float
    chosen: str
    maps: bool = True
    overlays: bool = True


class Detections:
    """The folder of a detection: ``detections.json``, and a JSON, maps and overlays for each sample.

    Convention: ``samples/<id>.json`` holds a ``SampleRecord``; ``detections.json`` the threshold and a line for each
    sample, in the order of the data, and is written last.
    """

    def __init__(self, folder: Path, header: Header, run: RunFolder | None = None) -> None:
        self.folder, self.header, self._run = folder, header, run
        self.rows: dict[str, dict[str, Any]] = {}
        self.bad: dict[str, str] = {}
        self._known: Mapping[str, dict[str, Any]] | None = None

    @classmethod
    @contextmanager
    def open(
        cls, folder: str | Path, header: Header, options: Mapping[str, Any], rig: Rig, *, fresh: bool = False
    ) -> Iterator[Detections]:
        """Begin a folder, or go on with one that was begun with the same options.

        A sample that was decided by another threshold is decided anew, without another inspection.

        Args:
            folder: made where it is missing.
            header: what all samples share.
            options: what decides what is found, such as a fingerprint of the detector.
            rig: of the cameras; it is kept beside what was found.
            fresh: first delete what an earlier detection has written there.

        Raises:
            OSError: the folder cannot be written, or another process writes it.
            ValueError: it holds another detection, and not ``fresh``.
        """
        size, depths = list(header.cameras.size), dict(header.cameras.depths)
        cameras = {"views": list(header.cameras.views), "size": size, "depths": depths}
        shared = {"category": header.category, "cameras": cameras, "maps": header.maps, "overlays": header.overlays}
        # The folders are not its own with all that is in them: every file in them is noted by itself.
        mine = read_run(folder) is not None
        check_free(Path(folder), (FILE, RIG) if mine else (FILE, RIG, *_KINDS))
        with RunFolder.open(folder, command="detect", options={**shared, **options}, fresh=fresh) as run:
            run.file(FILE)
            rig.save(run.file(RIG))
            yield cls(Path(folder), header, run)

    @classmethod
    @contextmanager
    def reopen(cls, folder: str | Path, threshold: float, chosen: str) -> Iterator[Detections]:
        """Open a finished folder to decide all samples anew.

        Raises:
            FileNotFoundError, ValueError: the folder holds no finished detection.
        """
        known, before = read_run(folder), cls.load(folder)
        if known is None:
            raise ValueError(f"{folder}: must be a folder that `vsad detect` wrote, got none; inspect first")
        header = before.header._replace(threshold=threshold, chosen=chosen)
        with RunFolder.open(folder, command=known.command, options=known.options) as run:
            made = cls(Path(folder), header, run)
            made.bad = before.bad
            yield made

    def is_of(self, sample: Sample) -> bool:
        """Whether a sample's files have the sizes of those that were inspected by its name, wherever they lie now."""
        if self._known is None:
            known = read_run(self.folder)
            self._known = {} if known is None else known.done
        stamps = self._known.get(sample.id, {}).get("files", [])
        try:
            return not stamps or sorted(s[1] for s in stamps) == sorted(s[1] for s in _stamps(sample))
        except OSError:
            return True  # reading them says what is wrong

    def own(self, name: str) -> Path:
        """The path of a further file of the folder's own, which ``fresh`` deletes."""
        assert self._run is not None
        check_free(self.folder, [name])
        return self._run.file(name)

    @property
    def rig(self) -> Rig:
        """The rig of the cameras."""
        return Rig.load(self.folder / RIG)

    @property
    def done(self) -> list[str]:
        """The names of the samples that were inspected, and whose results are there."""
        assert self._run is not None
        return [name for name in self._run.done if self._is_there(name)]

    def is_done(self, sample: Sample) -> bool:
        """Whether a sample was inspected, its files are as they were then, and its results are there."""
        assert self._run is not None
        return self._run.done.get(sample.id) == {"files": _stamps(sample)} and self._is_there(sample.id)

    def _is_there(self, sample_id: str) -> bool:
        """Whether the results of a sample are there, or were deleted by somebody."""
        return (self.folder / _file(sample_id)).is_file()

    def keep(self, sample_id: str) -> SampleRecord:
        """Take over what was found in a sample that is done, decided by the threshold in use."""
        record = SampleRecord.read(self.folder / _file(sample_id))
        if record.threshold != self.header.threshold:
            record = self._decide_anew(record)
        self.rows[record.id] = _row(record)
        return record

    def _decide_anew(self, record: SampleRecord) -> SampleRecord:
        assert self._run is not None
        threshold = self.header.threshold
        maps = [self.map(record, v).numpy() for v in range(len(record.views))]
        images = _images(record, self.header.cameras)
        views = []
        for v, view in enumerate(record.views):
            if view.overlay is not None and images is not None:
                write_overlay(self._run.file(view.overlay), images[v], maps[v], threshold)
            elif view.overlay is not None:  # it shows another threshold, and its image is gone
                self._run.file(view.overlay).unlink(missing_ok=True)
            overlay = view.overlay if images is not None else None
            views.append(replace(view, regions=regions_of(maps[v], threshold), overlay=overlay))
        unjudged = [view.unjudged for view in record.views]
        verdict = DEFECT if is_defect(record.score, threshold, unjudged) else OK
        record = replace(record, threshold=threshold, verdict=verdict, views=tuple(views))
        record.write(self._run.file(_file(record.id)))
        return record

    def write(self, sample: Sample, found: Detection, images: Tensor) -> SampleRecord:
        """Write what was found in a sample; ``images (V, 3, H, W)`` are those that were inspected."""
        assert self._run is not None
        views, threshold = self.header.cameras.views, self.header.threshold
        stamps = _stamps(sample)  # of the files as they were read, or a little later: never of what replaces them
        record = record_of(sample, found, threshold, views, maps=self.header.maps, overlays=self.header.overlays)
        scores = as_numpy(found.maps)
        for v, view in enumerate(record.views):
            if view.map is not None:
                write_map(self._run.file(view.map), scores[v])
            if view.overlay is not None:
                write_overlay(self._run.file(view.overlay), images[v], scores[v], threshold)
        record.write(self._run.file(_file(sample.id)))
        self._run.mark(sample.id, files=stamps)
        self.rows[record.id] = _row(record)
        return record

    def finish(self, order: Sequence[str] = ()) -> None:
        """Write ``detections.json``, samples in this order; those that are not named stand last."""
        assert self._run is not None
        named = {sample_id: self.rows[sample_id] for sample_id in order if sample_id in self.rows}
        self.rows = {**named, **self.rows}
        self.write_summary(self._run.file(FILE))
        self._run.finish(samples=len(self.rows), bad=len(self.bad))

    def write_summary(self, path: Path) -> None:
        """Write the threshold and a line for each sample as JSON."""
        cameras = self.header.cameras
        content = {
            "format": FORMAT, "version": VERSION, "category": self.header.category,
            "threshold": self.header.threshold, "threshold_chosen": self.header.chosen,
            **cameras.content, "maps": self.header.maps, "overlays": self.header.overlays,
            "samples": [*self.rows.values()], "bad": [{"id": name, "reason": why} for name, why in self.bad.items()],
        }  # fmt: skip
        write_json(path, content)

    @classmethod
    def load(cls, folder: str | Path) -> Detections:
        """Read a finished folder.

        Raises:
            FileNotFoundError, ValueError: ``detections.json`` is missing or broken.
        """
        folder = Path(folder)
        content = read_detections(folder)
        try:
            header = Header(
                content["category"], Cameras.parse(content), float(content["threshold"]), content["threshold_chosen"],
                content["maps"], content["overlays"],
            )  # fmt: skip
            made = cls(folder, header)
            made.rows = {row["id"]: row for row in content["samples"]}
            made.bad = {row["id"]: row["reason"] for row in content["bad"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{folder / FILE}: must be detections of a data set, got {error!r}; {REMEDY}") from None
        return made

    def record(self, sample_id: str) -> SampleRecord:
        """What was found in a sample.

        Raises:
            FileNotFoundError, ValueError: its JSON is missing or broken, or there is no such sample.
        """
        if sample_id not in self.rows:
            raise ValueError(f"{self.folder / FILE}: must hold {sample_id}, got no such sample; {REMEDY}")
        return SampleRecord.read(self.folder / _file(sample_id))

    def detection(self, sample_id: str) -> Detection:
        """The same as the detector gave it, maps read from their files.

        Raises:
            FileNotFoundError, ValueError: a file is missing or broken, or maps were not written.
        """
        record = self.record(sample_id)
        maps = torch.stack([self.map(record, v) for v in range(len(record.views))])
        unjudged = [view.unjudged for view in record.views]
        return Detection(
            maps,
            torch.tensor([view.score for view in record.views]),
            torch.tensor(record.score),
            record.not_registered,
            None if None in unjudged else torch.tensor(unjudged),
        )

    def map(self, record: SampleRecord, view: int) -> Tensor:
        """The map ``(H, W)`` of a view."""
        name, low, high = record.views[view].map, record.views[view].low, record.views[view].high
        if name is None:
            raise ValueError(f"{self.folder}: must hold maps, got detections without; inspect anew with --maps")
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ValueError(f"{self.folder / _file(record.id)}: maps must lie in the folder, got {name}; {REMEDY}")
        found = read_map(path, low, high)
        if tuple(found.shape) != (record.height, record.width):
            raise ValueError(f"{path}: must be {record.width} x {record.height} pixels, got another size; {REMEDY}")
        return found

    @property
    def verdicts(self) -> Verdicts:
        """What was decided of every sample."""
        found = [
            Verdict(
                row["id"], row["label"], row["score"], row["verdict"] == "defect",
                None if row["unjudged"] is None else tuple(row["unjudged"]), row["not_registered"],
            )
            for row in self.rows.values()
        ]  # fmt: skip
        return Verdicts(tuple(self.header.cameras.views), self.header.threshold, found)


def _row(record: SampleRecord) -> dict[str, Any]:
    unjudged = [view.unjudged for view in record.views]
    return {
        "id": record.id, "label": record.label, "score": record.score, "verdict": record.verdict,
        "views": {view.view: view.score for view in record.views}, "not_registered": record.not_registered,
        "unjudged": None if None in unjudged else unjudged, "file": _file(record.id),
    }  # fmt: skip


def _file(sample_id: str) -> str:
    return f"samples/{sample_id}.json"


def _images(record: SampleRecord, cameras: Cameras) -> Tensor | None:
    """The images that were inspected; None where they are no longer there."""
    sample = Sample(record.category, record.id, "new", None, record.files, {})
    try:
        return MultiViewDataset([sample], cameras=cameras).read_images(0)
    except (OSError, ValueError):
        return None


def _stamps(sample: Sample) -> list[list[Any]]:
    """Name, size and time of every image of a sample: a sample whose files have changed is another."""
    paths = dict.fromkeys(file.path for file in sample.images.values())
    return [[str(path.absolute()), *stamp(path)] for path in paths]
