"""The detector: a model's features, a memory of normal ones at every level, and maps on which the views agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.memory import AlignedMemory, PrototypeMemory
from vsad.models.valdm import VALDM, read_json, read_weights
from vsad.ops import homography_warp
from vsad.rig import Rig

CONFIG, WEIGHTS, RIG, MODEL = "detector.json", "memory.safetensors", "rig.json", "model"
MEMORIES = ("aligned", "prototypes")
PLACE = 1.5  # feature pixels over which normal scores are pooled: samples are few, and products lie a little off
FLOOR = 0.3  # of the mean deviation: where normal samples hardly differ, a small change must not look enormous


class Detection(NamedTuple):
    """What the detector says of one sample.

    ``maps (V, H, W)``: normal deviations above the normal mean at that place, of the view and of the views that agree;
    ``view_scores (V,)``: their maxima; ``sample_score ()``: the maximum over the views. All float32.
    """

    maps: Tensor
    view_scores: Tensor
    sample_score: Tensor

    @classmethod
    def of(cls, maps: Tensor, size: tuple[int, int]) -> Detection:
        """Resize ``maps (V, h, w)`` to the images' ``size`` and take the maxima."""
        maps = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        view_scores = maps.flatten(1).amax(1)
        return cls(maps, view_scores, view_scores.amax())


@dataclass(frozen=True)
class DetectorConfig:
    """How maps are made of features.

    Args:
        memory: "aligned" looks normal samples up at the same place, "prototypes" anywhere.
        references: normal samples that an aligned memory keeps, at most.
        window: how far a product may lie off, in feature pixels, odd.
        prototypes: that a prototype memory keeps for each view.
        weights: of the levels, the latents first; one value serves all further ones.
        smooth: deviation of the Gaussian that smooths the maps, in pixels of the finest features.
        agree: whether what other views see at the same surface point is added.
        false_alarms: share of normal samples that may exceed the threshold.
        seed: of every draw.
    """

    memory: str = "aligned"
    references: int = 40
    window: int = 5
    prototypes: int = 2000
    weights: tuple[float, ...] = (1.0, 0.5)
    smooth: float = 1.0
    agree: bool = True
    false_alarms: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f"detector: memory must be one of {list(MEMORIES)}, got {self.memory!r}")
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"detector: false_alarms must lie between 0 and 1, got {self.false_alarms}")
        if not self.weights or min(self.weights) < 0 or sum(self.weights) == 0:
            raise ValueError(f"detector: weights must not be negative, nor all zero, got {self.weights}")


class Level(nn.Module):
    """One level of features: its memory, and the mean and deviation that normal scores have at every place."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, memory: AlignedMemory | PrototypeMemory, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    @classmethod
    def fit(
        cls, features: Tensor, config: DetectorConfig, track: Callable[..., Iterable[Tensor]], whiten: bool
    ) -> tuple[Level, Tensor]:
        """Remember normal ``features (S, V, C, h, w)``; also the normal samples' own deviations ``(S, V, h, w)``."""
        memory: AlignedMemory | PrototypeMemory
        if config.memory == "aligned":
            memory = AlignedMemory.fit(
                features, size=config.references, window=config.window, whiten=whiten, seed=config.seed
            )
        else:
            memory = PrototypeMemory.fit(features, size=config.prototypes, whiten=whiten, seed=config.seed)
        scores = torch.stack(list(track(memory.normal_scores(features))))  # (S, V, h, w)
        mean = gaussian(scores.mean(0), PLACE)
        deviation = gaussian((scores - mean).square().mean(0), PLACE).sqrt()
        level = cls(memory, mean, (deviation + FLOOR * deviation.mean()).clamp(min=1e-6))
        return level, (scores - level.mean) / level.deviation

    def forward(self, features: Tensor) -> Tensor:
        """Deviations ``(V, h, w)`` of one sample's ``features (V, C, h, w)`` from normal."""
        scores: Tensor = self.memory(features)
        return (scores - self.mean) / self.deviation


class Detector(nn.Module):
    """Inspects the images of a rig's views; made by :meth:`fit` or :meth:`from_pretrained`."""

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
        track: Callable[[Iterable[Tensor], int, str], Iterable[Tensor]] = lambda items, total, label: items,
    ) -> Detector:
        """Fill the memory with the features of normal samples and choose the threshold.

        Args:
            model: trained.
            rig: of the views.
            latents: of the normal samples, ``(S, V, c, h, w)``, as ``model.encode`` makes them.
            config: of the detector.
            track: wraps an iterable of known length to show progress: ``track(items, total, label)``.
        """
        config = config or DetectorConfig()
        samples = [model.features(sample[None], rig) for sample in track(latents, len(latents), "features")]
        levels, deviations = [], []
        for index, parts in enumerate(zip(*samples)):
            features = torch.cat(parts)
            kept = min(len(features), config.references) if config.memory == "aligned" else len(features)
            label = f"memory, level {index + 1} of {len(samples[0])}"
            # latents hardly correlate, whereas a decoder's channels mostly repeat each other
            level, normal = Level.fit(
                features, config, lambda m, n=kept, text=label: track(m, n, text), whiten=index > 0
            )
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
        save_file({k: v.contiguous() for k, v in self.levels.state_dict().items()}, folder / WEIGHTS)
        content = {**asdict(self.config), "threshold": self.threshold}
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Detector:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: a file is broken or does not belong to the others; the message names it.
        """
        folder = Path(folder)
        content = read_json(folder / CONFIG)
        model, rig, weights = (
            VALDM.from_pretrained(folder / MODEL),
            Rig.load(folder / RIG),
            read_weights(folder / WEIGHTS),
        )
        try:
            threshold = float(content.pop("threshold"))
            config = DetectorConfig(**{**content, "weights": tuple(content["weights"])})
            count = 1 + max(int(name.split(".")[0]) for name in weights)
            levels = [_level(weights, f"{i}.", config) for i in range(count)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: {CONFIG} and {WEIGHTS} must belong together, got {error}; fit anew") from None
        return cls(model, rig, levels, threshold, config).eval()


def _level(weights: dict[str, Tensor], prefix: str, config: DetectorConfig) -> Level:
    transform = weights[prefix + "memory.transform"]
    memory: AlignedMemory | PrototypeMemory
    if config.memory == "aligned":
        memory = AlignedMemory(weights[prefix + "memory.key"], transform, window=config.window)
    else:
        memory = PrototypeMemory(weights[prefix + "memory.prototypes"], transform)
    return Level(memory, weights[prefix + "mean"], weights[prefix + "deviation"])


def add_agreement(maps: Tensor, rig: Rig) -> Tensor:
    """``A_i(p) + max(0, mean_j A_j(H_ij p))`` over the views j that see p: a defect shows at one surface point in
    several views, a highlight or noise in one.

    Args:
        maps: deviations from normal ``(V, h, w)``.
        rig: of the V views.
    """
    homography, neighbors = rig.to_operator((maps.shape[-2], maps.shape[-1]), device=maps.device)
    total, seen = torch.zeros_like(maps), torch.zeros_like(maps)
    for slot in range(neighbors.shape[1]):
        others = maps[neighbors[:, slot].clamp(min=0)][:, None]
        warped, mask = homography_warp(others, homography[:, slot], return_mask=True)
        mask = mask & (neighbors[:, slot] >= 0)[:, None, None]
        total += torch.where(mask, warped[:, 0], 0)
        seen += mask
    return maps + (total / seen.clamp(min=1)).clamp(min=0)


def gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Smooth ``maps (*, h, w)`` with a Gaussian of deviation ``sigma`` pixels, reflecting at the borders."""
    radius = min(math.ceil(3 * sigma), min(maps.shape[-2:]) - 1)
    if sigma <= 0 or radius < 1:
        return maps
    t = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    line = torch.exp(-0.5 * (t / sigma) ** 2)
    line = line / line.sum()
    x = F.pad(maps.reshape(-1, 1, *maps.shape[-2:]), [radius] * 4, mode="reflect")
    x = F.conv2d(F.conv2d(x, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    return x.reshape(maps.shape)
