"""Inspecting samples as they arrive in a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vsad.data import BadSample, Grouped, MultiViewDataset, Sample, ViewFile, group_by_view
from vsad.data.listing import readable_pictures, split_name, walk
from vsad.data.manta import is_montage, montage
from vsad.data.new_samples import NEW
from vsad.detection import Detector
from vsad.files import append_line, in_words
from vsad.pipeline.detections import Detections
from vsad.pipeline.opening import in_utf8
from vsad.pipeline.record import SampleRecord, check_names
from vsad.pipeline.stages import stamp

# A picture's size and time of change, by its path.
_Stamps = dict[Path, tuple[int, int]]
# Seconds after which a folder is looked through that tells of no change: those of networks may not tell.
_REST_S = 5.0


@dataclass
class _Seen:
    """What is known of a sample that is not done: its files as they last were, and since when they are like that."""

    stamps: _Stamps
    since: float
    said: bool = False


class Log:
    """``log.jsonl``: a line for every inspection, as JSON, and none twice or half written however often work stops.

    Args:
        path: of the file; what a killed process has left half written at its end is deleted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with in_words(path):
            written = path.read_bytes() if path.exists() else b""
            whole = written[: written.rfind(b"\n") + 1]
            if len(whole) < len(written):
                os.truncate(path, len(whole))
        self._known = set(whole.decode(errors="replace").splitlines())

    def found(self, record: SampleRecord) -> str:
        """Write what was found in a sample; returns the line."""
        append_line(self.path, record.line)
        return record.line

    def kept(self, record: SampleRecord) -> None:
        """Write what was found before, if the process was killed before it could."""
        if record.line not in self._known:
            self.found(record)

    def bad(self, sample_id: str, reason: str) -> None:
        """Write why a sample was not inspected."""
        append_line(self.path, json.dumps({"id": sample_id, "verdict": None, "reason": reason}))


@dataclass
class Watcher:
    """Inspects the samples of a folder once each, as soon as all of their views are there and no longer change.

    A picture that cannot be read may be half written: it is tried again until its file has not changed for
    ``patience_s``; then the sample is called bad, until a file of it changes.

    Args:
        folder: where samples arrive, named as ``group_by_view`` reads them, or as montages of square views.
        detector: that of the station.
        out: where results go; samples that are done there are not inspected again.
        on_found: called with the record of each sample.
        on_bad: called with each sample that cannot be read.
        on_kept: called at the beginning with the record of each sample that is done.
        on_problem: called once with each problem of the folder, in words; samples that it does not concern go on.
        settle_s: seconds for which a sample's files must not have changed.
        patience_s: seconds after which a picture that cannot be read is no longer waited for.
        depth, pixel_limit: of the images, as ``MultiViewDataset`` takes them.
    """

    folder: Path
    detector: Detector
    out: Detections
    on_found: Callable[[SampleRecord], None]
    on_bad: Callable[[BadSample], None]
    on_problem: Callable[[str], None]
    on_kept: Callable[[SampleRecord], None] = lambda record: None
    settle_s: float = 0.5
    patience_s: float = 10.0
    depth: int | None = None
    pixel_limit: int | None = None
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _problems: set[str] = field(default_factory=set)

    def run(self, looks: Iterable[object], clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the folder again and again, and when ``looks`` ends, in whatever way, write the summary.

        Args:
            looks: yields something true where the folder may have changed, and something false where time has passed.
            clock: tells the time in seconds.
        """
        looked = -_REST_S
        try:
            for name in self.out.done:
                self.on_kept(self.out.keep(name))
            for has_changed in looks:
                now = clock()
                waits = any(not seen.said for seen in self._seen.values())
                if has_changed or waits or now - looked >= _REST_S:
                    self.look(now)
                    looked = now
        finally:
            self.out.finish()

    def look(self, now: float) -> None:
        """Inspect the samples that are complete and settled at a time ``now``, in seconds of any clock."""
        try:
            files = dict(walk(os.fspath(self.folder)))
        except FileNotFoundError:
            return  # a folder was taken away meanwhile
        except OSError as error:
            self._problem(f"{error.filename}: must be a folder that can be read, got {error.strerror}")
            return
        views = self.detector.rig.views
        grouped = group_by_view(readable_pictures(files), views)
        for text in grouped.ambiguous:
            self._problem(f"in {self.folder}, {text}")
        for sample in self._samples(grouped, files):
            try:
                self._consider(sample, now)
            except FileNotFoundError:
                continue  # a file was taken away meanwhile

    def _samples(self, grouped: Grouped, files: dict[str, str]) -> Iterable[Sample]:
        views = self.detector.rig.views
        for name, held in grouped.complete.items():
            # Files that are called after their views alone are the sample that the folder is.
            images = {view: ViewFile(Path(files[file])) for view, file in held.items()}
            yield Sample("", name or self.folder.resolve().name, NEW, None, images, {})
        for name in grouped.unknown:
            path, sample_id = Path(files[name]), split_name(name)[0]
            if sample_id not in grouped.complete and is_montage(path, len(views)):
                yield Sample("", sample_id, NEW, None, montage(path, views), {})

    def _consider(self, sample: Sample, now: float) -> None:
        if self.out.is_done(sample):
            return
        stamps = {file.path: stamp(file.path) for file in sample.images.values()}
        seen = self._seen.get(sample.id)
        if seen is None or seen.stamps != stamps:
            self._seen[sample.id] = _Seen(stamps, now)
        elif not seen.said and now - seen.since >= self.settle_s:
            self._inspect(sample, seen, now)

    def _inspect(self, sample: Sample, seen: _Seen, now: float) -> None:
        try:
            check_names(sample)
            cameras, limit = self.detector.cameras, self.pixel_limit
            dataset = MultiViewDataset([sample], cameras=cameras, depth=self.depth, pixel_limit=limit)
            images = dataset.read_images(0)
        except (OSError, ValueError) as error:
            if now - seen.since >= self.patience_s:
                seen.said = True
                bad = BadSample(sample, str(error))
                self.out.bad[in_utf8(sample.id)] = in_utf8(bad.reason)
                self.on_bad(bad)
            return
        record = self.out.write(sample, self.detector(images).cpu(), images)
        self.out.bad.pop(sample.id, None)
        del self._seen[sample.id]
        self.on_found(record)

    def _problem(self, text: str) -> None:
        if text not in self._problems:
            self._problems.add(text)
            self.on_problem(text)
