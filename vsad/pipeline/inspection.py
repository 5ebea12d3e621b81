"""Inspecting samples one after the other: each is written as it is done, and a bad one does not lose the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from vsad.config import plain
from vsad.data import BadSample, MultiViewDataset, Sample
from vsad.detection import Detector, storage
from vsad.files import fingerprint_files
from vsad.pipeline.detections import Detections
from vsad.pipeline.opening import in_utf8
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
) -> None:
    """Inspect every sample that is not done yet, and write what is found.

    Args:
        detector: that of the station.
        dataset: of the detector's cameras.
        out: where results go.
        progress: told of every sample.
        batch: samples that go through the detector at once.
        on_found: called with the record of each sample, those that were done before first.
        on_bad: called with each sample whose files cannot be read, which is left out; where None, that is an error.
    """

    def bad(found: BadSample) -> None:
        if on_bad is None:
            raise ValueError(found.reason)
        out.bad[in_utf8(found.sample.id)] = in_utf8(found.reason)
        on_bad(found)

    todo = []
    for index, sample in enumerate(dataset.samples):
        try:
            check_names(sample)
        except ValueError as error:
            bad(BadSample(sample, str(error)))
            continue
        if _is_done(out, sample):
            on_found(out.keep(sample.id))
        else:
            todo.append(index)

    with progress.stage("detect", len(todo)) as stage:
        rest = dataset.subset(todo) if todo else None
        images = rest.iter_images(None if on_bad is None else bad) if rest else iter(())
        for group in _groups(images, batch):
            for (index, views), found in zip(group, detector.inspect([views for _, views in group])):
                assert rest is not None
                on_found(out.write(rest.samples[index], found.cpu(), views))
                stage.advance()
    out.finish([sample.id for sample in dataset.samples])


def detector_options(detector: Detector, folder: Path) -> dict[str, Any]:
    """By what a folder of detections knows a detector again: all that decides its scores, and not its threshold."""
    parts = fingerprint_files(*(folder / part for part in (storage.WEIGHTS, storage.RIG, storage.MODEL)))
    network = None if detector.network is None else detector.network.name
    config = {name: value for name, value in plain(asdict(detector.config)).items() if name not in _FREE}
    return {"detector": parts, "config": config, "network": network}


def _is_done(out: Detections, sample: Sample) -> bool:
    try:
        return out.is_done(sample)
    except OSError:
        return False  # reading it says why


def _groups(images: Iterator[tuple[int, Tensor]], size: int) -> Iterator[list[tuple[int, Tensor]]]:
    while group := [*islice(images, size)]:
        yield group
