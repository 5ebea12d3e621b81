"""The detector: a model's features, a memory of normal ones at every level, and maps on which the views agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.checks import as_images
from vsad.data import Cameras
from vsad.detection import storage
from vsad.detection.agreement import agree as agree_views
from vsad.detection.config import DetectorConfig
from vsad.detection.detection import Detection
from vsad.detection.glare import Glare, any_pixel, covered
from vsad.detection.level import Level
from vsad.detection.network import FrozenNetwork
from vsad.detection.placement import Placement, cells, place
from vsad.detection.practice import Practice
from vsad.detection.precision import Unrounded, without_autocast
from vsad.detection.scoring import fit_scores, warn_of_unjudged
from vsad.detection.smoothing import extend, known_gaussian
from vsad.detection.threshold import Threshold, fit_threshold
from vsad.detection.weighing import Cases, choose_weights
from vsad.geometry import Rig
from vsad.progress import SILENT, Progress
from vsad.registration import Registration, canonical_rig
from vsad.scratch import Samples, Scratch, in_columns

if TYPE_CHECKING:
    from vsad.models import VALDM

# So near to a picture's border a view's score is its own evidence alone, in feature pixels.
_RIM = 1


class Detector(Unrounded):
    """Inspects the images of a rig's views; made by ``fit`` or ``from_pretrained``.

    Args:
        model: makes the features.
        rig: rig of the views.
        levels: what is remembered of each level of features.
        glare: tells where a lamp's reflection hides the surface.
        reach: ``(2, V)``, how high normal samples reach in every view, by the view itself and confirmed by others.
        registration: brings samples into canonical pose; None where they lie in place.
        threshold: at or above which a sample is defective.
        config: configuration.
        network: whose maps are levels beside the model's.
        cameras: what images must be of: the rig's views and size, and files like the normal samples', where known.
        unjudged: the share of every view that no view judges in normal samples; None where it is not known.
    """

    reach: Tensor
    category: Tensor

    def __init__(
        self,
        model: VALDM,
        rig: Rig,
        levels: Sequence[Level],
        glare: Glare,
        reach: Tensor,
        registration: Registration | None,
        threshold: Threshold,
        config: DetectorConfig,
        network: FrozenNetwork | None = None,
        cameras: Cameras | None = None,
        unjudged: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.rig, self.config, self.fitted, self.network = model, rig, config, threshold, network
        self.levels, self.glare, self.registration = nn.ModuleList(levels), glare, registration
        self.canonical_rig = canonical_rig(rig, registration, model.divisor)  # checked once, not for every sample
        self.canonical_size = canonical_rig(rig, registration).size
        # Where samples are not registered, maps lie as canonical ones do, with what was added to the pictures.
        self.judged_rig = rig if registration is not None else self.canonical_rig
        self.cameras = cameras or Cameras(rig.views, rig.size, {})
        self.unjudged = unjudged
        self.register_buffer("reach", reach)
        known = model.config.categories
        if config.category is not None and config.category not in known:
            raise ValueError(f"detector: category must be one of the model's, {list(known)}, got {config.category!r}")
        index = 0 if config.category is None else known.index(config.category)
        self.register_buffer("category", torch.tensor([index], device=reach.device), persistent=False)

    @property
    def threshold(self) -> float:
        """The score at or above which a sample is defective."""
        return self.fitted.value

    @classmethod
    @without_autocast
    @torch.no_grad()
    def fit(
        cls,
        model: VALDM,
        rig: Rig,
        latents: Samples,
        config: DetectorConfig | None = None,
        *,
        placements: Sequence[Placement] | None = None,
        registration: Registration | None = None,
        practice: Practice | None = None,
        network: FrozenNetwork | None = None,
        maps: Sequence[Tensor | Scratch] = (),
        names: Sequence[str] = (),
        progress: Progress = SILENT,
    ) -> Detector:
        """Fill the memory with the features of normal samples and choose the threshold.

        Every normal sample is scored as if the memory and its statistics did not know it, and the canonical sample of
        the registration not at all; the threshold is that of ``fit_threshold`` for these scores. Where the model
        corrects homographies, the detector's rig is the one that it sees in the normal samples.

        What is computed of every sample goes to temporary files (``vsad.scratch``), so that memory holds a few samples
        at a time, and the detector.

        Args:
            model: trained; all work is done on its device.
            rig: rig of the views.
            latents: latents of the normal samples in canonical pose, ``(S, V, c, h, w)``, as ``model.encode`` makes
                them, in memory or on disk.
            config: configuration of the detector.
            placements: those of the samples; None where all pixels say something.
            registration: by which the samples were brought into canonical pose, if they were.
            practice: some of the normal samples with painted defects; without them all levels weigh the same.
            network: whose maps are levels beside the model's; the detector keeps it.
            maps: that it gives of the normal samples in canonical pose, each ``(S, V, C, h, w)``.
            names: of the samples, for what ``name_odd`` says of them.
            progress: told of every sample and level.
        """
        from vsad.models import refined_rig  # diffusers takes seconds to import

        if model.adapter.homography_net is not None:
            refined = refined_rig(model, latents, canonical_rig(rig, registration, model.divisor))
            wide = canonical_rig(rig, registration)
            rig = refined.extended(wide.size).cropped((wide.size[0] - rig.size[0]) // 2)
        config = config or DetectorConfig()
        config = replace(config, window=config.window or (3 if registration else 5))
        size, device, count = (latents.shape[-2], latents.shape[-1]), model.device, len(latents)
        if placements is None:
            shown = torch.ones(latents.shape[1], *size, dtype=torch.bool)
            placements = [Placement(None, shown, ~shown, shown.to(torch.uint8))] * count
        practice = practice or Practice(torch.empty(0), (), torch.empty(0))
        none = fit_threshold([math.inf], config.false_alarms)
        glare = Glare.fit((placement.to(device) for placement in placements), size)
        glare.warn_of_flat(rig.views)
        reach = torch.ones(2, len(rig.views), device=device)
        detector = cls(model, rig, [], glare, reach, registration, none, config, network)
        each = chain(detector._features(latents), detector._features(practice.latents))
        own = progress.track(each, "features", count + len(practice.latents))
        normal, painted = [*in_columns(islice(own, count), count), *maps], [*in_columns(own), *practice.maps]
        deviations = detector._fit_levels(normal, painted, placements, practice.samples, progress)
        # The canonical sample lies as it lies to the last digit, which no other does.
        used = [i for i in range(count) if count <= 2 or not placements[i].is_canonical]
        normal_cases = Cases(deviations, placements, [(i, i) for i in used])
        if config.weights is None:
            painted_cases = Cases(deviations, placements, [*enumerate(practice.samples, count)])
            weights = choose_weights(detector, normal_cases, painted_cases, practice.marks)
            detector.config = replace(config, weights=weights)
        fit_scores(detector, normal_cases, [names[i] for i in used] if names else [f"sample {i}" for i in used])
        if not all(bool(level.get_buffer("known").any()) for level in detector.levels):
            raise ValueError("Detector.fit: samples must show what can be judged, got nothing; look at their pictures")
        warn_of_unjudged(rig.views, detector.unjudged)
        return detector

    def _fit_levels(
        self,
        normal: Sequence[Tensor | Scratch],
        painted: Sequence[Tensor | Scratch],
        placements: Sequence[Placement],
        samples: Sequence[int],
        progress: Progress,
    ) -> list[Scratch]:
        """Fit every level to normal samples, and give all deviations, as ``Level.fit`` does.

        Args:
            normal: their features at every level, ``(S, V, C_i, h_i, w_i)``.
            painted: those of samples with practice defects; of no level where there are none.
            placements: those of the normal samples.
            samples: which normal sample each of the painted ones was.
            progress: told of every level.
        """
        device, deviations = self.reach.device, []
        seen: dict[torch.Size, Scratch] = {}  # most levels have one size
        for index, features in enumerate(normal):
            size = features.shape[-2:]
            if size not in seen:
                seen[size] = Scratch(self._seen(placement.to(device), size) for placement in placements)
            changed = list(zip(samples, painted[index].to(device))) if samples else []
            label = f"memory, level {index + 1} of {len(normal)}"
            level, found = Level.fit(
                features.to(device), seen[size], self.config, changed=changed, progress=progress, label=label
            )
            self.levels.append(level)
            deviations.append(found)
        return deviations

    def forward(self, images: Tensor | np.ndarray) -> Detection:
        """Inspect one sample's ``images (V, 3, H, W)``, RGB in [0, 1] or bytes, views in the rig's order.

        They are brought to the detector's device, where the detection stays; nothing between waits for the device but
        the estimate of the sample's pose, where samples are registered: its features are OpenCV's, on the CPU. The
        configuration says what is in half precision, here and everywhere, whatever ``torch.autocast`` is around.

        Raises:
            TypeError: the images are neither of floating point nor bytes.
            ValueError: the number of views or the size of the images is not the rig's, or values are not in [0, 1].
        """
        return self.inspect([images])[0]

    @without_autocast
    @torch.no_grad()
    def inspect(self, samples: Sequence[Tensor | np.ndarray]) -> list[Detection]:
        """Inspect several samples together, each as a call takes it.

        A batch is for a GPU: it fills one, and needs the memory of all its samples.
        """
        shape = (len(self.rig.views), 3, *self.rig.size)
        placed = [
            place(as_images("Detector", images, shape).to(self.reach), self.registration, self.model.divisor)
            for images in samples
        ]
        moved = torch.stack([pictures for pictures, _ in placed])
        maps = () if self.network is None else map(torch.stack, zip(*(self.network(views) for views in moved)))
        deviations = self.deviations_of(self.model.encode(moved), *maps)
        return [self.decide(found, placement) for found, (_, placement) in zip(deviations, placed)]

    def deviations(self, latents: Tensor, *maps: Tensor) -> list[Tensor]:
        """Deviations from normal at every level, ``(V, h_i, w_i)``; zeros at one that does not count.

        Args:
            latents: of one sample, ``(V, c, h, w)``.
            maps: those of the frozen network, ``(V, C, h, w)`` each.
        """
        return next(self.deviations_of(latents[None], *(level[None] for level in maps)))

    @without_autocast
    @torch.no_grad()
    def deviations_of(self, latents: Samples, *maps: Samples) -> Iterator[list[Tensor]]:
        """What ``deviations`` gives of each of many samples, ``(S, V, c, h, w)`` and ``(S, V, C, h, w)``.

        The UNet takes ``config.unet_batch`` of them at once.
        """
        weights, own = self._weights(), len(self.levels) - len(maps)
        stages = any(weights[1:own])
        numbers = [*range(own if stages else 1), *range(own, len(self.levels))]
        for sample in self._features(latents, *maps, stages=stages):
            features = dict(zip(numbers, sample))
            # A level that does not count is not compared.
            yield [
                level(features[number]) if weights[number] > 0 else torch.zeros_like(level.get_buffer("mean"))
                for number, level in enumerate(self.levels)
            ]

    def _weights(self, weights: Sequence[float] | None = None) -> list[float]:
        """A weight for every level, of those given or else the configuration's."""
        weights = weights or self.config.weights or (1.0,)
        return [weights[min(i, len(weights) - 1)] for i in range(len(self.levels))]

    def _features(self, latents: Samples, *maps: Samples, stages: bool = True) -> Iterator[list[Tensor]]:
        """The levels of every sample, ``(V, C_i, h_i, w_i)``: the model's, with its UNet's or without, and the maps."""
        settled = self.model.adapter.homography_net is not None  # fit took what it makes of the rig
        batch, precision = self.config.unet_batch(self.reach.device), self.config.unet_precision
        for start in range(0, len(latents), batch):
            samples = range(start, min(start + batch, len(latents)))
            part, *own = (torch.stack([level[i] for i in samples]) for level in (latents, *maps))
            part, own = part.to(self.reach.device), [level.to(part) for level in own]
            found = self.model.features(
                part, self.canonical_rig, self.category.expand(len(part)),
                stages=stages, settled=settled, precision=precision,
            )  # fmt: skip
            yield from map(list, zip(*found, *own))

    @without_autocast
    @torch.no_grad()
    def decide(self, deviations: list[Tensor], placement: Placement, agree: bool | None = None) -> Detection:
        """Fuse the levels' deviations into a detection.

        Args:
            deviations: of every level, in canonical pose.
            placement: the sample's.
            agree: overrides the configuration.
        """
        found = self._judge(*self._own(deviations, placement), agree=agree, reason=placement.reason)
        return found.without(self.glare.dead(placement.to(self.reach.device)))

    def _judge(
        self, own: Tensor, known: Tensor, shown: Tensor, agree: bool | None = None, reason: str | None = None
    ) -> Detection:
        """Measure what ``_own`` gives by the reach of normal samples, where views agree with what others confirm."""
        h, w = cells(self.rig.size, self.judged_rig.size, own.shape[1:])
        if self.config.agree if agree is None else agree:
            maps, unjudged = agree_views(own, known, shown, self.judged_rig, self.reach)
            # Evidence spreads beyond a defect, so what others see of one beside a picture reaches over its rim.
            rim = torch.ones_like(known)
            rim[:, _RIM : h - _RIM, _RIM : w - _RIM] = False
            hearsay = rim & ~known | unjudged
        else:
            maps, unjudged = own / self.reach[0][:, None, None], ~shown
            hearsay = unjudged
        # A map says of a place that nobody judges what it says next to it; no view's score does.
        maps = extend(maps, ~unjudged)
        share, blind = (mask[:, :h, :w].float().mean((1, 2)) for mask in (unjudged, ~known))
        return Detection.of(maps, self.judged_rig.size, reason, share, hearsay, shown=self.rig.size, blind=blind)

    def _own(self, deviations: list[Tensor], placement: Placement) -> tuple[Tensor, Tensor, Tensor]:
        """What ``fuse`` gives, brought from canonical pose to where the sample lies."""
        placement = placement.to(self.reach.device)
        own, known, shown = self.fuse(deviations, placement)
        if self.registration is not None and placement.pose is not None:
            back = partial(
                self.registration.from_canonical, pose=placement.pose, canonical_size=self.canonical_rig.size
            )
            masks = torch.stack([known, shown]).to(own)
            own, inside = back(own)
            known, shown = (inside & (back(mask)[0] > 0.99) for mask in masks)
        return own, known, shown

    @without_autocast
    def fuse(
        self, deviations: list[Tensor], placement: Placement, weights: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted mean of the levels' deviations at the finest size, smoothed, in canonical pose.

        Args:
            deviations: of every level.
            placement: the sample's.
            weights: of the levels; None takes the configuration's.

        Returns:
            The map; where it is known; and where the sample shows something at least, all ``(V, h, w)``.
        """
        weights = self._weights(weights)
        size = max((tuple(d.shape[-2:]) for d in deviations), key=math.prod)
        resized = [F.interpolate(d[None], size, mode="bilinear", align_corners=False)[0] for d in deviations]
        fused = sum((w * d for w, d in zip(weights, resized)), torch.zeros_like(resized[0])) / sum(weights)
        shown = covered(placement, size)
        for level in self.levels:
            assert isinstance(level, Level)
            shown = shown & ~any_pixel(~level.known, size)
        h, w = cells(self.canonical_size, self.canonical_rig.size, size)
        shown[:, h:], shown[:, :, w:] = False, False  # what was added to the pictures is no part of them
        known = shown & ~self._dazzled(placement, size)
        masks = torch.stack([known, shown])
        sure, doubtful = known_gaussian(fused.expand(masks.shape), masks, self.config.smooth)
        return torch.where(known, sure, doubtful), known, shown

    def _seen(self, placement: Placement, size: Sequence[int]) -> Tensor:
        """Where the features of a size have seen nothing but the sample's surface, ``(V, *size)`` bool."""
        return covered(placement, size) & ~self._dazzled(placement, size)

    def _dazzled(self, placement: Placement, size: Sequence[int]) -> Tensor:
        """Where a lamp's reflection hides the surface, ``(V, *size)`` bool."""
        hidden: Tensor = self.glare(placement)
        return any_pixel(hidden, size)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, the rig, the memory (safetensors) and the configuration (JSON) into a folder.

        It is read in float32, whatever it is in.
        """
        storage.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, network: FrozenNetwork | None = None) -> Detector:
        """Read what ``save_pretrained`` wrote.

        Args:
            folder: the detector's.
            network: the frozen network that it was fitted with; None makes it again by its name, where it has one.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: a file is broken or does not belong to the others; the message names it.
        """
        return cls(*storage.load(Path(folder), network)).eval()
