"""The parts that a run and an ablation share: samples as a detector takes them, models, detectors and the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vsad.data import MultiViewDataset
from vsad.detection import Detector, DetectorConfig, GaussianBank, Placement, gaussian_derivatives
from vsad.geometry import Rig
from vsad.models import VALDM, new_model
from vsad.pipeline.detections import Detections
from vsad.pipeline.steps import canonical_images, images_of
from vsad.progress import SILENT, Progress
from vsad.registration import Registration

# The name of the baseline's row in tables.
BASELINE = "Gaussian derivatives, plain bank"


class Split(NamedTuple):
    """The samples of a split as a detector takes them: ``latents (S, V, c, h, w)`` and placements."""

    latents: Tensor
    placements: list[Placement]

    @classmethod
    def of(
        cls,
        dataset: MultiViewDataset,
        registration: Registration | None,
        label: str,
        progress: Progress,
        encoded: Callable[[Iterable[Tensor]], Tensor],
    ) -> Split:
        """Read, register and encode every sample."""
        placements: list[Placement] = []
        latents = encoded(canonical_images(dataset, registration, placements, label, progress))
        return cls(latents, placements)


def changed_model(model: VALDM, preset: str, seed: int, **changes: Any) -> VALDM:
    """Make the model of a preset and seed with other values of some fields of its configuration, not trained yet.

    It standardizes latents as ``model``, which is of the same preset, does.
    """
    changed = new_model(preset, seed, lambda config: replace(config, **changes))
    changed.latent_mean.copy_(model.latent_mean)
    changed.latent_deviation.copy_(model.latent_deviation)
    return changed


def fit_detector(
    model: VALDM,
    rig: Rig,
    split: Split,
    registration: Registration | None,
    config: DetectorConfig,
    progress: Progress = SILENT,
) -> Detector:
    """Fit a detector to a trained model on the normal samples."""
    return Detector.fit(
        model, rig, split.latents, config,
        placements=split.placements, registration=registration, progress=progress,
    )  # fmt: skip


@torch.no_grad()
def detect_baseline(
    normal: MultiViewDataset, test: MultiViewDataset, seed: int, progress: Progress = SILENT
) -> Detections:
    """Judge the test samples by a plain bank of Gaussian derivatives of every view by itself; it has no threshold."""
    features = [gaussian_derivatives(views) for views in images_of(normal, "baseline", progress)]
    with progress.stage("baseline, bank", 1):
        bank = GaussianBank(torch.stack(features), seed=seed)
    return Detections(test, [bank(views) for views in images_of(test, "baseline, detect", progress)])
