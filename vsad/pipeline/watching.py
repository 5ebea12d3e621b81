"""Inspecting samples as they arrive in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vsad.data import BadSample, MultiViewDataset, Sample, new_samples
from vsad.detection import Detector
from vsad.pipeline.detections import Detections
from vsad.pipeline.record import SampleRecord

# A picture's size and time of change, by its path.
_Stamps = dict[Path, tuple[int, int]]


@dataclass
class _Seen:
    """What is known of a sample that is not done: its files as they last were, and since when they are like that."""

    stamps: _Stamps
    since: float
    said: bool = False


@dataclass
class Watcher:
    """Inspects the samples of a folder once each, as soon as all of their views are there and no longer change.

    A picture that cannot be read may be half written: it is tried again until its file has not changed for
    ``patience_s``; then the sample is called bad, until a file of it changes.

    Args:
        folder: where samples arrive, named as ``new_samples`` reads them.
        detector: that of the station.
        out: where results go; samples that are done there are not inspected again.
        on_found: called with the record of each sample.
        on_bad: called with each sample that cannot be read.
        on_problem: called once with each problem of the folder, in words.
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
    settle_s: float = 0.5
    patience_s: float = 10.0
    depth: int | None = None
    pixel_limit: int | None = None
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _problems: set[str] = field(default_factory=set)

    def run(self, looks: Iterable[object], clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the folder again and again, whenever ``looks`` yields, and at its end write the summary."""
        try:
            for name in self.out.done:
                self.out.keep(name)
            for _ in looks:
                self.look(clock())
        finally:
            self.out.finish()

    def look(self, now: float) -> None:
        """Inspect the samples that are complete and settled at a time ``now``, in seconds of any clock."""
        try:
            found = new_samples([self.folder], self.detector.rig.views)
        except FileNotFoundError:
            return  # nothing has arrived yet
        except (OSError, ValueError) as error:
            self._problem(str(error))
            return
        for sample in found.complete:
            try:
                self._consider(sample, now)
            except FileNotFoundError:
                continue  # a file was taken away meanwhile

    def _consider(self, sample: Sample, now: float) -> None:
        if self.out.is_done(sample):
            return
        stamps = {file.path: _stamp(file.path) for file in sample.images.values()}
        seen = self._seen.get(sample.id)
        if seen is None or seen.stamps != stamps:
            self._seen[sample.id] = _Seen(stamps, now)
        elif not seen.said and now - seen.since >= self.settle_s:
            self._inspect(sample, seen, now)

    def _inspect(self, sample: Sample, seen: _Seen, now: float) -> None:
        limit = {} if self.pixel_limit is None else {"pixel_limit": self.pixel_limit}
        try:
            dataset = MultiViewDataset([sample], cameras=self.detector.cameras, depth=self.depth, **limit)
            images = dataset.read_images(0)
        except (OSError, ValueError) as error:
            if now - seen.since >= self.patience_s:
                seen.said = True
                bad = BadSample(sample, str(error))
                self.out.bad[sample.id] = bad.reason
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


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
