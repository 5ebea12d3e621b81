"""The steps that the command and a run share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vsad.data import MultiViewDataset
from vsad.files import read_weights, write_json, write_weights
from vsad.geometry import Rig
from vsad.metrics import Intervals, Result, summarize
from vsad.pipeline.config import REGISTRATION
from vsad.progress import SILENT, Progress
from vsad.registration import Registration, choose_canonical, choose_margin, registration_helps

# Normal samples that tell the product from its background.
_OTHERS = 8


def images_of(dataset: MultiViewDataset, label: str, progress: Progress = SILENT) -> Iterator[Tensor]:
    """Read the images ``(V, 3, H, W)`` of one sample after the other, as a stage of that label."""
    return progress.track((images for _, images in dataset.iter_images()), label, len(dataset))


def register_station(
    normal: MultiViewDataset, rig: Rig, mode: str = "auto", progress: Progress = SILENT
) -> tuple[Registration | None, str]:
    """Make the registration of a station's samples.

    Args:
        normal: normal samples.
        rig: the station's.
        mode: "auto" registers where ``registration_helps``; "on" and "off" do as they say.
        progress: told of the samples that are done.

    Returns:
        The registration, or None, and the reason in words.

    Raises:
        ValueError: there is no such mode.
    """
    if mode not in REGISTRATION:
        raise ValueError(f"registration must be one of {list(REGISTRATION)}, got {mode!r}")
    if mode == "off":
        return None, "off: as asked"
    samples = Images(normal)
    canonical = choose_canonical(samples, rig, progress=progress)
    others = [samples[index] for index in range(min(len(samples), _OTHERS)) if index != canonical]
    registration = Registration.fit(samples[canonical], rig, others=others)
    reason = "on: as asked"
    if mode == "auto":
        gain = registration_helps(samples, registration, progress=progress)
        if not gain.helps:
            return None, gain.reason
        reason = gain.reason
    margin = choose_margin(samples, registration, progress=progress)
    return registration.wider(margin, rig), reason + (
        f"; canonical pictures are {margin} px wider at every side" if margin else ""
    )


class Images(Sequence[Tensor]):
    """The images of the samples of data sets, one data set after the other, read when they are asked for."""

    def __init__(self, *datasets: MultiViewDataset) -> None:
        self.samples = [(dataset, index) for dataset in datasets for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        dataset, sample = self.samples[index]
        return dataset.read_images(sample)


def register_once(
    normal: MultiViewDataset,
    rig: Rig,
    mode: str,
    known: Mapping[str, Any] | None,
    weights: Path,
    mark: Callable[..., None],
    progress: Progress = SILENT,
) -> tuple[Registration | None, str]:
    """What ``register_station`` gives, which is not estimated again where work goes on that was interrupted.

    Args:
        normal, rig, mode, progress: as there.
        known: what ``mark`` was told of an earlier estimate; None where there was none.
        weights: file that a registration is kept in.
        mark: notes facts of the estimate.
    """
    if known is not None:
        kept = known["registered"] and read_weights(weights, "add --fresh to begin anew")
        return Registration.rebuild(kept, rig) if kept else None, known["why"]
    registration, why = register_station(normal, rig, mode, progress)
    if registration is not None:
        write_weights(weights, registration.state_dict())
    mark(registered=registration is not None, why=why)
    return registration, why


def write_metrics(path: Path, results: Mapping[str, Result], intervals: Mapping[str, Intervals]) -> None:
    """Write ``{"categories": {name: Tally.result()}, "mean": {...}, "intervals": {name: {...}}}``."""
    write_json(path, summarize(results, intervals))


def metrics_table(rows: Sequence[tuple[str, Result]]) -> list[dict[str, Any]]:
    """The rows of the closing table."""
    columns = (("sample", "auroc"), ("view", "auroc"), ("pixel", "auroc"), ("pixel", "ap"), ("pixel", "aupro"))
    return [
        {"name": name, **{f"{level} {metric}": result[level][metric] for level, metric in columns}}
        for name, result in rows
    ]
