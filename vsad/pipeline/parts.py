"""The parts that a run and an ablation share: samples as a detector takes them, models, detectors and the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vsad.data import MultiViewDataset
from vsad.detection import (
    Detection,
    Detector,
    DetectorConfig,
    FrozenNetwork,
    GaussianBank,
    Placement,
    Placements,
    Practice,
    gaussian_derivatives,
    paint_defects,
    place,
    place_all,
)
from vsad.geometry import Rig
from vsad.models import VALDM, new_model
from vsad.pipeline.steps import images_of
from vsad.progress import SILENT, Progress
from vsad.registration import Registration, canonical_rig
from vsad.scratch import Samples, Scratch, append_to
from vsad.training import encodings

# Normal samples on which practice defects are painted, and how many on each.
PRACTICE, DEFECTS = 12, 5


class Split(NamedTuple):
    """The samples of a split as a detector takes them, on disk: memory holds those that are being looked at.

    Args:
        latents: ``(S, V, c, h, w)``.
        placements: those of the samples.
        maps: a frozen network's, each ``(S, V, C, h, w)``.
        practice: some of the samples with painted defects, of a split to fit detectors to.
        names: of the samples.
    """

    latents: Samples
    placements: Sequence[Placement]
    maps: tuple[Scratch, ...] = ()
    practice: Practice | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        dataset: MultiViewDataset,
        registration: Registration | None,
        model: VALDM,
        label: str,
        progress: Progress,
        network: FrozenNetwork | None = None,
    ) -> Split:
        """Read, register and encode every sample."""
        return _encode(dataset, registration, model, label, progress, network)

    @classmethod
    def to_fit(
        cls,
        dataset: MultiViewDataset,
        registration: Registration | None,
        model: VALDM,
        rig: Rig,
        progress: Progress,
        encoded: Callable[[Iterable[Tensor]], Samples] | None = None,
        network: FrozenNetwork | None = None,
        seed: int = 0,
    ) -> Split:
        """The same, and paint practice defects on some samples.

        The samples' latents are what ``encoded`` makes of their images, where it is given: it may standardize them.
        """
        split = _encode(dataset, registration, model, "encode train", progress, network, encoded)
        count = min(PRACTICE, len(dataset))
        chosen = tuple(index * len(dataset) // count for index in range(count))
        generator, canonical = torch.Generator().manual_seed(seed), canonical_rig(rig, registration, model.divisor)
        marks, maps = Scratch(), list[Scratch]()

        def painted() -> Iterator[Tensor]:
            for index in chosen:
                views, _ = place(dataset.read_images(index), registration, model.divisor)
                made = paint_defects(views, canonical, generator, DEFECTS)
                marks.append(made.marks)
                yield made.images

        images = progress.track(painted(), "encode practice defects", count)
        latents = Scratch(encodings(model, _shown_to(network, images, maps)))
        return split._replace(practice=Practice(latents, chosen, marks, tuple(maps)))


def _encode(
    dataset: MultiViewDataset,
    registration: Registration | None,
    model: VALDM,
    label: str,
    progress: Progress,
    network: FrozenNetwork | None,
    encoded: Callable[[Iterable[Tensor]], Samples] | None = None,
) -> Split:
    placements, maps = Placements(), list[Scratch]()
    images = place_all(images_of(dataset, label, progress), registration, placements, model.divisor)
    shown = _shown_to(network, images, maps)
    latents = Scratch(encodings(model, shown)) if encoded is None else encoded(shown)
    return Split(latents, placements, tuple(maps), names=tuple(sample.id for sample in dataset.samples))


def _shown_to(network: FrozenNetwork | None, images: Iterable[Tensor], maps: list[Scratch]) -> Iterator[Tensor]:
    """Yield the samples' images; ``maps`` takes what a network makes of them."""
    for views in images:
        if network is not None:
            append_to(maps, network(views))
        yield views


def changed_model(model: VALDM, seed: int, **changes: Any) -> VALDM:
    """Make a new model with other values of some fields of the configuration of ``model``, not trained yet.

    It standardizes latents as ``model`` does.
    """
    changed = new_model(replace(model.config, **changes), seed).to(model.device)
    changed.adapter.latent_mean.copy_(model.adapter.latent_mean)
    changed.adapter.latent_deviation.copy_(model.adapter.latent_deviation)
    return changed


def check_enough(normal: MultiViewDataset) -> None:
    """Refuse to fit a detector to a single sample, before any work: how much normal ones differ, two tell at least.

    Raises:
        ValueError: there are fewer.
    """
    if len(normal) < 2:
        raise ValueError(
            f"fit: train/good must hold at least 2 normal samples of {normal.category}, got {len(normal)}; add some"
        )


def fit_detector(
    model: VALDM,
    rig: Rig,
    split: Split,
    registration: Registration | None,
    config: DetectorConfig,
    progress: Progress = SILENT,
    network: FrozenNetwork | None = None,
    category: str | None = None,
) -> Detector:
    """Fit a detector to a trained model, and perhaps a frozen network, on the normal samples.

    The ``category`` is the product's, which counts where the model is conditioned.
    """
    config = replace(config, category=category if model.config.conditioning != "none" else None)
    return Detector.fit(
        model, rig, split.latents, config, placements=split.placements, registration=registration,
        practice=split.practice, network=network, maps=split.maps, names=split.names, progress=progress,
    )  # fmt: skip


def deviations_of(detector: Detector, split: Split, progress: Progress = SILENT) -> Iterator[list[Tensor]]:
    """The deviations of every sample of a split, as ``decide`` takes them."""
    return progress.track(detector.deviations_of(split.latents, *split.maps), "detect", len(split.latents))


@torch.no_grad()
def detect_baseline(
    normal: MultiViewDataset, test: MultiViewDataset, seed: int, progress: Progress = SILENT
) -> Iterator[Detection]:
    """Judge the test samples by a plain bank of Gaussian derivatives of every view by itself; there is no threshold."""
    features = [gaussian_derivatives(views) for views in images_of(normal, "baseline", progress)]
    with progress.stage("baseline, bank", 1):
        bank = GaussianBank(torch.stack(features), seed=seed)
    yield from map(bank, images_of(test, "baseline, detect", progress))
