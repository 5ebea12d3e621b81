"""Inspecting samples as they arrive in a folder."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vsad.data import Found, MultiViewDataset, Sample
from vsad.data.listing import walk
from vsad.data.new_samples import samples_among, why_unknown
from vsad.detection import Detector
from vsad.files import append_line, first_of, in_words
from vsad.pipeline.detections import Detections
from vsad.pipeline.opening import size_warnings
from vsad.pipeline.record import SampleRecord, check_names
from vsad.pipeline.stages import stamp

# A picture's size and time of change, by its path.
_Stamps = dict[Path, tuple[int, int]]
# Seconds after which a folder is looked through that tells of no change: those of networks may not tell.
_REST_S = 5.0
# Samples that are named in one line at the end.
_NAMED = 20


@dataclass
class _Seen:
    """What is known of a sample that is not done: its files as they last were, and since when they are like that."""

    stamps: _Stamps
    since: float
    said: bool = False


@dataclass
class _Stuck:
    """What is known of a sample that is not whole, or of a picture that is of none: why, and since when that is so."""

    why: str
    is_sample: bool
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

    A picture that cannot be read may be half written, and a view that is missing may follow: they are waited for until
    nothing has changed for ``patience_s``. Then the sample is called bad, and why, until a file of it changes. What is
    not inspected when the work ends is called bad as well.

    Args:
        folder: where samples arrive, named as ``group_by_view`` reads them, or as montages of square views.
        detector: that of the station.
        out: where results go; samples that are done there are not inspected again.
        on_found: called with the record of each sample.
        on_bad: called with the name of each sample that cannot be inspected, and why, in words.
        on_kept: called at the beginning with the record of each sample that is done.
        on_problem: called once with each problem of the folder, in words; samples that it does not concern go on.
        settle_s: seconds for which a sample's files must not have changed.
        patience_s: seconds after which a view, or a picture that cannot be read, is no longer waited for.
        depth, pixel_limit: of the images, as ``MultiViewDataset`` takes them.
    """

    folder: Path
    detector: Detector
    out: Detections
    on_found: Callable[[SampleRecord], None]
    on_bad: Callable[[str, str], None]
    on_problem: Callable[[str], None]
    on_kept: Callable[[SampleRecord], None] = lambda record: None
    settle_s: float = 0.5
    patience_s: float = 10.0
    depth: int | None = None
    pixel_limit: int | None = None
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _stuck: dict[str, _Stuck] = field(default_factory=dict)
    _problems: set[str] = field(default_factory=set)

    def run(self, looks: Iterable[object], clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the folder again and again, and when ``looks`` ends, in whatever way, write the summary.

        Args:
            looks: yields something true where the folder may have changed, and something false where time has passed.
            clock: tells the time in seconds.
        """
        looked = -_REST_S
        try:
            for name in [*self.out.rows]:
                self._keep(name)
            for has_changed in looks:
                now = clock()
                waits = not all(each.said for waiting in (self._seen, self._stuck) for each in waiting.values())
                if has_changed or waits or now - looked >= _REST_S:
                    self.look(now)
                    looked = now
        finally:
            self._end()
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
        found = samples_among(files, self.detector.rig.views, self.folder.resolve().name)
        complete = {sample.id for sample in found.complete}
        self._seen = {name: seen for name, seen in self._seen.items() if name in complete}
        self._wait(found, now)
        for sample in found.complete:
            try:
                self._consider(sample, now)
            except FileNotFoundError:
                continue  # a file was taken away meanwhile

    def _keep(self, name: str) -> None:
        try:
            self.on_kept(self.out.record(name))
        except (OSError, ValueError) as error:
            self._problem(str(error))

    def _wait(self, found: Found, now: float) -> None:
        """Wait for what samples lack, and say what has not come."""
        views, has_left = self.detector.rig.views, self.out.has_left
        # Of a sample that was inspected, some files may be cleared away before the others, and one more may come.
        now_stuck = {
            name: (f"there is no image of {', '.join(missing)}", True)
            for name, missing in found.incomplete.items()
            if not has_left(name)
        }
        now_stuck |= {name: (why, not has_left(name)) for name, why in found.ambiguous.items()}
        now_stuck |= {str(path): (why_unknown(path, views), False) for path in found.unknown}
        before, self._stuck = self._stuck, {}
        for name, (why, is_sample) in now_stuck.items():
            known = before.get(name)
            self._stuck[name] = stuck = known if known and known.why == why else _Stuck(why, is_sample, now)
            if now - stuck.since >= self.patience_s:
                self._say(name, stuck)

    def _say(self, name: str, stuck: _Stuck) -> None:
        if not stuck.said:
            stuck.said = True
            if stuck.is_sample:
                self._bad(name, stuck.why)
            else:
                self._problem(f"{name}: {stuck.why}")

    def _bad(self, name: str, reason: str) -> None:
        self.out.leave_out(name, reason)
        self.on_bad(name, reason)

    def _end(self) -> None:
        """Say what was not inspected, also what was said before, as it is still so."""
        still = [name for name, stuck in self._stuck.items() if stuck.said and stuck.is_sample]
        for name, stuck in self._stuck.items():
            self._say(name, stuck)
        for name, seen in self._seen.items():
            if not seen.said:
                self._bad(name, "watching ended before its files had rested; watch again, or use `vsad detect`")
        if still:
            self._problem(f"still not whole at the end: {first_of(still, _NAMED)}")

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
                self._bad(sample.id, str(error))
            return
        for text in size_warnings(dataset):
            if text not in self._problems:
                self._problems.add(text)
                warnings.warn(text, stacklevel=2)
        record = self.out.write(sample, self.detector(images).cpu(), images)
        del self._seen[sample.id]
        self.on_found(record)

    def _problem(self, text: str) -> None:
        if text not in self._problems:
            self._problems.add(text)
            self.on_problem(text)
