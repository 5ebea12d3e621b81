"""The detector: a model's features, a memory of normal ones at every level, and maps on which the views agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.detection.agreement import add_agreement
from vsad.detection.config import DetectorConfig
from vsad.detection.detection import Detection
from vsad.detection.level import Level
from vsad.detection.smoothing import gaussian
from vsad.files import read_json, read_weights, write_json, write_weights
from vsad.geometry import Rig
from vsad.progress import SILENT, Progress

if TYPE_CHECKING:
    from vsad.models import VALDM

CONFIG, WEIGHTS, RIG, MODEL = "detector.json", "memory.safetensors", "rig.json", "model"
REMEDY = "name a folder that `vsad fit` wrote, or write it anew with it"


class Detector(nn.Module):
    """Inspects the images of a rig's views; made by ``fit`` or ``from_pretrained``."""

    def __init__(
        self, model: VALDM, rig: Rig, levels: Sequence[Level], threshold: float, config: DetectorConfig
    ) -> None:
        super().__init__()
        self.model, self.rig, self.config, self.threshold = model, rig, config, threshold
        self.levels = nn.ModuleList(levels)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        model: VALDM,
        rig: Rig,
        latents: Tensor,
        config: DetectorConfig | None = None,
        *,
        progress: Progress = SILENT,
    ) -> Detector:
        """Fill the memory with the features of normal samples and choose the threshold.

        Args:
            model: trained.
            rig: rig of the views.
            latents: latents of the normal samples, ``(S, V, c, h, w)``, as ``model.encode`` makes them.
            config: configuration of the detector.
            progress: told of every sample and level.
        """
        config = config or DetectorConfig()
        samples = [model.features(sample[None], rig) for sample in progress.track(latents, "features")]
        levels, deviations = [], []
        for index, parts in enumerate(zip(*samples)):
            label = f"memory, level {index + 1} of {len(samples[0])}"
            # Latents hardly correlate, whereas a decoder's channels mostly repeat each other.
            level, normal = Level.fit(torch.cat(parts), config, whiten=index > 0, progress=progress, label=label)
            levels.append(level)
            deviations.append(normal)
        detector = cls(model, rig, levels, math.inf, config)
        count = min(len(d) for d in deviations)
        scores = torch.stack([detector._fuse([d[i] for d in deviations]).amax() for i in range(count)])
        detector.threshold = float(torch.quantile(scores, 1 - config.false_alarms))
        return detector

    @torch.no_grad()
    def forward(self, images: Tensor) -> Detection:
        """Inspect one sample's ``images (V, 3, H, W)``, RGB in [0, 1], views in the rig's order.

        Raises:
            ValueError: the number of views or the size of the images is not the rig's.
        """
        expected = (len(self.rig.views), 3, *self.rig.size)
        if tuple(images.shape) != expected:
            raise ValueError(
                f"detector: images must be {list(expected)} like the rig's, got {list(images.shape)}; use --size"
            )
        return self.decide(self.deviations(self.model.encode(images[None])))

    @torch.no_grad()
    def deviations(self, latents: Tensor) -> list[Tensor]:
        """Deviations from normal at every level, ``(V, h_i, w_i)``, of one sample's ``latents (1, V, c, h, w)``."""
        return [level(f[0]) for level, f in zip(self.levels, self.model.features(latents, self.rig))]

    def decide(self, deviations: list[Tensor], agree: bool | None = None) -> Detection:
        """Fuse the levels' deviations into a detection; ``agree`` overrides the configuration."""
        return Detection.of(self._fuse(deviations, agree), self.rig.size)

    def _fuse(self, deviations: list[Tensor], agree: bool | None = None) -> Tensor:
        """Weighted mean of the levels' deviations at the finest size, smoothed, and what agreeing views add."""
        weights = [self.config.weights[min(i, len(self.config.weights) - 1)] for i in range(len(deviations))]
        size = max((tuple(d.shape[-2:]) for d in deviations), key=math.prod)
        resized = [F.interpolate(d[None], size, mode="bilinear", align_corners=False)[0] for d in deviations]
        fused = sum((w * d for w, d in zip(weights, resized)), torch.zeros_like(resized[0])) / sum(weights)
        fused = gaussian(fused, self.config.smooth)
        return add_agreement(fused, self.rig) if (self.config.agree if agree is None else agree) else fused

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, the rig, the memory (safetensors) and the configuration (JSON) into a folder."""
        folder = Path(folder)
        self.model.save_pretrained(folder / MODEL)
        self.rig.save(folder / RIG)
        write_weights(folder / WEIGHTS, self.levels.state_dict())
        write_json(folder / CONFIG, {**asdict(self.config), "threshold": self.threshold})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Detector:
        """Read what ``save_pretrained`` wrote.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: a file is broken or does not belong to the others; the message names it.
        """
        from vsad.models import VALDM  # diffusers takes seconds to import

        folder = Path(folder)
        content = read_json(folder / CONFIG, REMEDY)
        model, rig = VALDM.from_pretrained(folder / MODEL), Rig.load(folder / RIG)
        weights = read_weights(folder / WEIGHTS, REMEDY)
        try:
            threshold = float(content.pop("threshold"))
            config = DetectorConfig(**{**content, "weights": tuple(content["weights"])})
            levels = [Level.rebuild(part, config) for part in _by_level(weights)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: {CONFIG} and {WEIGHTS} must belong together, got {error}; fit anew") from None
        return cls(model, rig, levels, threshold, config).eval()


def _by_level(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Part the saved buffers, ``<level>.<name>``, by level."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(1 + max(int(name.split(".")[0]) for name in weights))]
    for name, tensor in weights.items():
        level, _, rest = name.partition(".")
        parts[int(level)][rest] = tensor
    return parts
