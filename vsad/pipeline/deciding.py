"""Deciding a sample anew that was inspected: by another threshold, or as the data have it now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from vsad.data import Cameras, MultiViewDataset, Sample
from vsad.detection import is_defect
from vsad.metrics import as_numpy
from vsad.pipeline.record import DEFECT, OK, SampleRecord, regions_of, write_overlay


def at_threshold(
    record: SampleRecord, threshold: float, maps: list[Tensor] | None, cameras: Cameras, file: Callable[[str], Path]
) -> SampleRecord:
    """Decide a sample by another threshold, and draw its overlays anew.

    Without maps regions cannot be known, and without maps or images an overlay would show another threshold: they are
    left out.

    Args:
        record: what was found.
        threshold: the new one.
        maps: of every view ``(H, W)``; None where there are none.
        cameras: of the detector.
        file: gives the path of a file of the folder's own.
    """
    images = None if maps is None else _images(record, cameras)
    views = []
    for v, view in enumerate(record.views):
        overlay = view.overlay if images is not None else None
        if overlay is not None and images is not None and maps is not None:
            write_overlay(file(overlay), images[v], as_numpy(maps[v]), threshold)
        elif view.overlay is not None:
            file(view.overlay).unlink(missing_ok=True)
        regions = () if maps is None else regions_of(as_numpy(maps[v]), threshold)
        views.append(replace(view, regions=regions, overlay=overlay))
    verdict = DEFECT if is_defect(record.score, threshold, *record.shares) else OK
    return replace(record, threshold=threshold, verdict=verdict, views=tuple(views))


def as_now(record: SampleRecord, sample: Sample) -> SampleRecord:
    """The record with what the data say of its sample now: the label, and where its files lie."""
    files = [(view, sample.images[view.view]) for view in record.views]
    views = tuple(
        replace(view, image=str(file.path.absolute()), part=file.part, parts=file.parts) for view, file in files
    )
    return replace(record, category=sample.category, label=sample.defect, views=views)


def _images(record: SampleRecord, cameras: Cameras) -> Tensor | None:
    """The images that were inspected; None where they are no longer there."""
    sample = Sample(record.category, record.id, "new", None, record.files, {})
    try:
        return MultiViewDataset([sample], cameras=cameras).read_images(0)
    except (OSError, ValueError):
        return None
