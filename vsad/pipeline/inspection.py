"""Inspecting samples one after the other: each is written as it is done, and a bad one does not lose the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from vsad.config import plain
from vsad.data import BadSample, MultiViewDataset, Sample
from vsad.detection import Detector, storage
from vsad.files import fingerprint_files, first_samples
from vsad.pipeline.detections import Detections
from vsad.pipeline.record import SampleRecord, check_names
from vsad.progress import SILENT, Progress

# Fields of a detector's configuration that change no score.
_FREE = ("batch", "false_alarms")


def inspect(
    detector: Detector,
    dataset: MultiViewDataset,
    out: Detections,
    progress: Progress = SILENT,
    *,
    batch: int = 1,
    on_found: Callable[[SampleRecord], None] = lambda record: None,
    on_bad: Callable[[BadSample], None] | None = None,
) -> int:
    """Inspect every sample that is not done yet, and add what is found to what the folder holds.

    Args:
        detector: that of the station.
        dataset: of the detector's cameras.
        out: where results go.
        progress: told of every sample.
        batch: samples that go through the detector at once.
        on_found: called with the record of each sample, those that were done before first.
        on_bad: called with each sample whose files cannot be read, which is left out; where None, that is an error.

    Returns:
        The number of samples that were inspected now.
    """

    def bad(found: BadSample) -> None:
        if on_bad is None:
            raise ValueError(found.reason)
        out.leave_out(found.sample.id, found.reason)
        on_bad(found)

    before = set(out.rows)
    todo, changed, done = [], [], 0
    for index, sample in enumerate(dataset.samples):
        try:
            check_names(sample)
        except ValueError as error:
            bad(BadSample(sample, str(error)))
            continue
        record = _kept(out, sample)
        if record is not None:
            on_found(record)
            continue
        todo.append(index)
        if sample.id in before:
            changed.append(sample.id)
    if changed:
        warnings.warn(
            f"{out.folder}: what was found in {first_samples(changed)} before was of other files, and is replaced",
            stacklevel=2,
        )

    with progress.stage("detect", len(todo)) as stage:
        rest = dataset.subset(todo) if todo else None
        images = rest.iter_images(None if on_bad is None else bad) if rest else iter(())
        for group in _groups(images, batch):
            for (index, views), found in zip(group, detector.inspect([views for _, views in group])):
                assert rest is not None
                on_found(out.write(rest.samples[index], found.cpu(), views))
                stage.advance()
                done += 1
    out.finish([sample.id for sample in dataset.samples])
    return done


def detector_options(detector: Detector, folder: Path) -> dict[str, Any]:
    """By what a folder of detections knows a detector again: all that decides its scores, and not its threshold."""
    parts = fingerprint_files(*(folder / part for part in (storage.WEIGHTS, storage.RIG, storage.MODEL)))
    network = None if detector.network is None else detector.network.name
    config = {name: value for name, value in plain(asdict(detector.config)).items() if name not in _FREE}
    return {"detector": parts, "config": config, "network": network}


def _kept(out: Detections, sample: Sample) -> SampleRecord | None:
    """What was found in a sample before; None where it is to be inspected."""
    try:
        return out.keep(sample.id, sample) if out.is_done(sample) else None
    except (OSError, ValueError):
        return None  # its files cannot be read, and reading them says why; or what was found then is broken


def _groups(images: Iterator[tuple[int, Tensor]], size: int) -> Iterator[list[tuple[int, Tensor]]]:
    while group := [*islice(images, size)]:
        yield group
