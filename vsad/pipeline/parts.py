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
    Practice,
    gaussian_derivatives,
    paint_defects,
)
from vsad.geometry import Rig
from vsad.models import VALDM, new_model
from vsad.pipeline.steps import canonical_images, images_of
from vsad.progress import SILENT, Progress
from vsad.registration import Registration, canonical_rig
from vsad.training import encode

# The name of the baseline's row in tables.
BASELINE = "Gaussian derivatives, plain bank"
# Normal samples on which practice defects are painted, and how many on each.
PRACTICE, DEFECTS = 12, 5


class Split(NamedTuple):
    """The samples of a split as a detector takes them.

    Args:
        latents: ``(S, V, c, h, w)``.
        placements: those of the samples.
        maps: a frozen network's, each ``(S, V, C, h, w)``.
        practice: some of the samples with painted defects, of a split to fit detectors to.
    """

    latents: Tensor
    placements: list[Placement]
    maps: tuple[Tensor, ...] = ()
    practice: Practice | None = None

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
        known = lambda images: encode(model, images)  # noqa: E731
        return _encode(dataset, registration, model.divisor, label, progress, known, network, [], {})

    @classmethod
    def to_fit(
        cls,
        dataset: MultiViewDataset,
        registration: Registration | None,
        model: VALDM,
        rig: Rig,
        progress: Progress,
        encoded: Callable[[Iterable[Tensor]], Tensor],
        network: FrozenNetwork | None = None,
        seed: int = 0,
    ) -> Split:
        """The same, and paint practice defects on some samples."""
        count = min(PRACTICE, len(dataset))
        chosen = [index * len(dataset) // count for index in range(count)]
        kept: dict[int, Tensor] = {}
        split = _encode(dataset, registration, model.divisor, "encode train", progress, encoded, network, chosen, kept)
        generator, canonical = torch.Generator().manual_seed(seed), canonical_rig(rig, registration, model.divisor)
        painted = [paint_defects(kept[index], canonical, generator, DEFECTS) for index in chosen]
        maps: list[list[Tensor]] = []
        images = progress.track([p.images for p in painted], "encode practice defects")
        latents = encode(model, _passing(images, network, maps, [], {}))
        marks = torch.stack([p.marks for p in painted])
        return split._replace(practice=Practice(latents, tuple(chosen), marks, _stacked(maps)))


def _encode(
    dataset: MultiViewDataset,
    registration: Registration | None,
    divisor: int,
    label: str,
    progress: Progress,
    encoded: Callable[[Iterable[Tensor]], Tensor],
    network: FrozenNetwork | None,
    chosen: Sequence[int],
    kept: dict[int, Tensor],
) -> Split:
    placements: list[Placement] = []
    maps: list[list[Tensor]] = []
    images = canonical_images(dataset, registration, placements, label, progress, divisor)
    latents = encoded(_passing(images, network, maps, chosen, kept))
    return Split(latents, placements, _stacked(maps))


def _passing(
    images: Iterable[Tensor],
    network: FrozenNetwork | None,
    maps: list[list[Tensor]],
    chosen: Sequence[int],
    kept: dict[int, Tensor],
) -> Iterator[Tensor]:
    """Yield the samples' images; ``maps`` takes what the network makes of them, ``kept`` the chosen samples."""
    for index, views in enumerate(images):
        if network is not None:
            maps.append(network(views))
        if index in chosen:
            kept[index] = views
        yield views


def _stacked(maps: list[list[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(level) for level in zip(*maps))


def changed_model(model: VALDM, seed: int, **changes: Any) -> VALDM:
    """Make a new model with other values of some fields of the configuration of ``model``, not trained yet.

    It standardizes latents as ``model`` does.
    """
    changed = new_model(replace(model.config, **changes), seed).to(model.device)
    changed.adapter.latent_mean.copy_(model.adapter.latent_mean)
    changed.adapter.latent_deviation.copy_(model.adapter.latent_deviation)
    return changed


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
        practice=split.practice, network=network, maps=split.maps, progress=progress,
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
