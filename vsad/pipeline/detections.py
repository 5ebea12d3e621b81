"""The folder of inspected samples: written as each is done, read when it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vsad.data import Cameras, Sample
from vsad.detection import Detection
from vsad.files import RunFolder, first_samples, read_run, write_json
from vsad.geometry import Rig
from vsad.metrics import as_numpy
from vsad.pipeline.deciding import as_now, at_threshold
from vsad.pipeline.detections_file import FILE, FORMAT, REMEDY, VERSION, read_detections
from vsad.pipeline.known_files import KnownFiles
from vsad.pipeline.opening import in_utf8
from vsad.pipeline.record import (
    DEFECT,
    SampleRecord,
    number_or_none,
    or_nan,
    read_map,
    record_of,
    write_map,
    write_overlay,
)  # fmt: skip
from vsad.pipeline.stages import check_free
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
    sample, and is written last. What is inspected later by the same detector is added to what is there.
    """

    def __init__(self, folder: Path, header: Header, run: RunFolder | None = None) -> None:
        self.folder, self.header, self._run = folder, header, run
        self.rows: dict[str, dict[str, Any]] = {}
        self.bad: dict[str, str] = {}
        self.without_maps: list[str] = []
        self._files = None if run is None else KnownFiles(run.done, run.mark)

    @classmethod
    @contextmanager
    def open(
        cls, folder: str | Path, header: Header, options: Mapping[str, Any], rig: Rig, *, fresh: bool = False
    ) -> Iterator[Detections]:
        """Begin a folder, or go on with one that was begun with the same options.

        Samples that were decided by another threshold are decided anew, without another inspection.

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
            made = cls(Path(folder), header, run)
            made._recall()
            yield made

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

    def _recall(self) -> None:
        """Take over what was inspected before, decided by the threshold in use."""
        assert self._run is not None
        before = self.load(self.folder) if (self.folder / FILE).exists() else None
        self.bad = {} if before is None else before.bad
        is_same = before is not None and before.header.threshold == self.header.threshold
        for name in self.done:
            if name in self.bad:
                continue  # its files were others, or not whole, when they were last looked at
            if before is not None and is_same and self._run.finished and name in before.rows:
                self.rows[name] = before.rows[name]
                continue
            try:
                self.keep(name)
            except (OSError, ValueError) as error:
                self.leave_out(name, str(error))
        if before is not None and not is_same and self.rows:
            warnings.warn(
                f"{self.folder}: the samples in it were decided by threshold {before.header.threshold:.6g}, and are "
                f"now decided by that of the detector, {self.header.threshold:.6g}", stacklevel=2,
            )  # fmt: skip
        self.warn_of_maps()

    def warn_of_maps(self) -> None:
        """Say which samples were decided anew by their scores alone, as there are no maps of them."""
        if self.without_maps:
            warnings.warn(
                f"{self.folder}: there are no maps of {first_samples(self.without_maps)}: their verdicts follow the "
                "threshold, their regions and overlays are left out; inspect anew with --fresh to have them",
                stacklevel=2,
            )

    def is_of(self, sample: Sample) -> bool:
        """Whether a sample's files are those that were inspected by its name, wherever they lie now."""
        if self._files is None:
            known = read_run(self.folder)
            self._files = KnownFiles({} if known is None else known.done)
        return self._files.may_be_of(sample)

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
        assert self._files is not None
        return [name for name in self._run.done if self._files.before(name) and self._is_there(name)]

    def is_done(self, sample: Sample) -> bool:
        """Whether a sample was inspected, its files are as they were then, and its results are there."""
        assert self._files is not None
        return self._files.are_of(sample) and self._is_there(sample.id)

    def has_left(self, sample_id: str) -> bool:
        """Whether of a sample that was inspected some files are there, and all of these are as they were."""
        assert self._files is not None
        return self._files.has_left(sample_id)

    def _is_there(self, sample_id: str) -> bool:
        """Whether the results of a sample are there, or were deleted by somebody."""
        return (self.folder / _file(sample_id)).is_file()

    def keep(self, sample_id: str, sample: Sample | None = None) -> SampleRecord:
        """Take over what was found in a sample that is done, decided by the threshold in use.

        Args:
            sample_id: its name.
            sample: the same as the data have it now: where its files lie, and its label.
        """
        assert self._files is not None
        read = record = SampleRecord.read(self.folder / _file(sample_id))
        if sample is not None:
            self._files.note_place(sample)
            record = as_now(record, sample)
        if record.threshold != self.header.threshold:
            record = self._decide_anew(record)
        if record != read:
            self._write_record(record)
        self._list(record)
        return record

    def leave_out(self, sample_id: str, reason: str) -> None:
        """Note why a sample cannot be inspected; what was found in it before was in other files."""
        self.rows.pop(sample_id, None)
        self.bad[in_utf8(sample_id)] = in_utf8(reason)

    def _list(self, record: SampleRecord) -> None:
        self.rows[record.id] = _row(record)
        self.bad.pop(record.id, None)

    def _write_record(self, record: SampleRecord) -> None:
        assert self._run is not None
        self._run.begin()  # ``detections.json`` is older from now on
        record.write(self._run.file(_file(record.id)))

    def _decide_anew(self, record: SampleRecord) -> SampleRecord:
        assert self._run is not None
        try:
            maps = [self.map(record, v) for v in range(len(record.views))]
        except (OSError, ValueError):
            maps = None
            self.without_maps.append(record.id)
        self._run.begin()
        return at_threshold(record, self.header.threshold, maps, self.header.cameras, self._run.file)

    def write(self, sample: Sample, found: Detection, images: Tensor) -> SampleRecord:
        """Write what was found in a sample; ``images (V, 3, H, W)`` are those that were inspected."""
        assert self._run is not None
        assert self._files is not None
        views, threshold = self.header.cameras.views, self.header.threshold
        self._files.forget(sample.id)  # until all of it is written
        record = record_of(sample, found, threshold, views, maps=self.header.maps, overlays=self.header.overlays)
        scores = as_numpy(found.maps)
        for v, view in enumerate(record.views):
            if view.map is not None:
                write_map(self._run.file(view.map), scores[v])
            if view.overlay is not None:
                write_overlay(self._run.file(view.overlay), images[v], scores[v], threshold)
        self._write_record(record)
        self._files.note(sample)
        self._list(record)
        return record

    def finish(self, order: Sequence[str] = ()) -> None:
        """Write ``detections.json``, samples in this order; those of other inspections stand last."""
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
        unjudged, blind = (None if shares is None else torch.tensor(shares) for shares in record.shares)
        scores = torch.tensor([view.score for view in record.views])
        return Detection(maps, scores, torch.tensor(record.score), record.not_registered, unjudged, blind)

    def map(self, record: SampleRecord, view: int) -> Tensor:
        """The map ``(H, W)`` of a view."""
        stored = record.views[view]
        name = stored.map
        if name is None:
            raise ValueError(f"{self.folder}: must hold maps, got detections without; inspect anew with --maps")
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ValueError(f"{self.folder / _file(record.id)}: maps must lie in the folder, got {name}; {REMEDY}")
        found = read_map(path, stored.low, stored.high, stored.gap)
        if tuple(found.shape) != (record.height, record.width):
            raise ValueError(f"{path}: must be {record.width} x {record.height} pixels, got another size; {REMEDY}")
        return found

    @property
    def verdicts(self) -> Verdicts:
        """What was decided of every sample."""
        found = [_verdict(row) for row in self.rows.values()]
        return Verdicts(tuple(self.header.cameras.views), self.header.threshold, found)

    def warnings_of(self, record: SampleRecord) -> list[str]:
        """What was not judged as it should be in one sample, as far as it alone tells."""
        views = tuple(view.view for view in record.views)
        return [*Verdicts(views, record.threshold, [_verdict(_row(record))]).of_samples()]

    def verdicts_of(self, names: Iterable[str]) -> Verdicts:
        """What was decided of some samples."""
        every, wanted = self.verdicts, set(names)
        return replace(every, found=[verdict for verdict in every.found if verdict.id in wanted])


def _row(record: SampleRecord) -> dict[str, Any]:
    unjudged, blind = record.shares
    return {
        "id": record.id, "label": record.label, "score": number_or_none(record.score), "verdict": record.verdict,
        "views": {view.view: number_or_none(view.score) for view in record.views},
        "not_registered": record.not_registered, "unjudged": unjudged, "blind": blind, "file": _file(record.id),
    }  # fmt: skip


def _verdict(row: Mapping[str, Any]) -> Verdict:
    """What a line of ``detections.json`` says."""
    unjudged, blind = (None if row.get(name) is None else tuple(row[name]) for name in ("unjudged", "blind"))
    score, defect = or_nan(row["score"]), row["verdict"] == DEFECT
    return Verdict(row["id"], row["label"], score, defect, unjudged, row["not_registered"], blind)


def _file(sample_id: str) -> str:
    return f"samples/{sample_id}.json"
