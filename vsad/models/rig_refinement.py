"""The rig that a model's HomographyNet sees."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import islice, product

import torch
from torch import Tensor

from vsad.files import first_of
from vsad.geometry import Rig, RigPair, corners_to_homography, homography_to_corners, image_corners, scale_homography
from vsad.geometry.homography import transform_points
from vsad.models.losses import window_cosine
from vsad.models.projection import Projection
from vsad.models.valdm import VALDM
from vsad.ops import homography_warp
from vsad.scratch import Samples

# How much more views must agree by a homography than by the one that was given for it to be taken: in the cosine of
# their windows, on average of so many samples. One that was found without a rig, than so many latent pixels beside it.
_BETTER, _MORE, _BESIDE, _SAMPLES, _WINDOW = 0.005, 0.03, (4, 8), 8, 5


@torch.no_grad()
def refined_rig(model: VALDM, latents: Samples, rig: Rig) -> Rig:
    """The rig whose corner offsets are the medians of those that the model finds in normal samples.

    Cameras do not move from sample to sample, so what all samples say together is better than what one says.

    Args:
        model: with a HomographyNet.
        latents: of normal samples, ``(S, V, c, h, w)``.
        rig: from which the model starts; for a model that learns homographies its graph alone counts.

    Returns:
        A rig of the same pairs. A pair keeps its homography where views agree no better by the one that was found, as
        where little is to be seen, and where the median sample sees a corner of it from behind. Of a model that learns
        homographies, pairs whose views do not agree by what was found are left out, all of them where most do not; a
        warning names them.
    """
    model.eval()
    found = []
    for sample in latents:
        projection = model.project(sample[None], rig)[-1]
        found.append(projection.homography[0].double().cpu())
    H, size = torch.stack(found), projection.size  # (S, V, N, 3, 3)
    corners = image_corners(size, dtype=torch.float64)
    in_front = transform_points(H, corners, return_mask=True)[1].all(-1)  # (S, V, N)
    offsets = torch.where(in_front[..., None, None], homography_to_corners(H, size), torch.nan).nanmedian(0).values
    median = corners_to_homography(offsets.nan_to_num(), size)  # (V, N, 3, 3)
    learned = model.config.homographies == "learned"
    others = _beside(median) if learned else Projection.of(rig, size).homography.double()
    here, *elsewhere = _agreement(model, latents, torch.cat([median[None], others]), rig.neighbors)
    better = here - torch.stack(elsewhere).amax(0) > (_MORE if learned else _BETTER)
    taken = better & (in_front.double().mean(0) > 0.5)  # (V, N)
    places = [(rig.views.index(pair.target), slot) for pair, slot in zip(rig.pairs, _slots(rig))]
    whole = scale_homography(median, size, rig.size)
    pairs = [replace(p, homography=whole[i]) if taken[i] else p for p, i in zip(rig.pairs, places)]
    if learned:
        pairs = _found([(pair, bool(taken[i])) for pair, i in zip(pairs, places)])
    return Rig(rig.views, rig.size, tuple(pairs))


def _slots(rig: Rig) -> list[int]:
    """The slot of every pair in its target's row of the operator's arguments."""
    counts = dict.fromkeys(rig.views, -1)
    slots = []
    for pair in rig.pairs:
        counts[pair.target] += 1
        slots.append(counts[pair.target])
    return slots


def _found(pairs: list[tuple[RigPair, bool]]) -> list[RigPair]:
    """The pairs that are believed; none where most are not."""
    lost = [pair for pair, believed in pairs if not believed]
    if not lost:
        return [pair for pair, _ in pairs]
    most = 2 * len(lost) > len(pairs)
    names = first_of([f"{pair.target} from {pair.source}" for pair in lost])
    left = "all pairs are left out, and every view is judged alone" if most else "they are left out"
    warnings.warn(
        f"model: {len(lost)} of {len(pairs)} homographies were not found, {names}: {left}; calibrate the rig, or name "
        "in it the pairs of views that overlap and are not turned against each other",
        stacklevel=3,
    )
    return [] if most else [pair for pair, believed in pairs if believed]


def _beside(homographies: Tensor) -> Tensor:
    """The same ``(V, N, 3, 3)`` with their images moved to every side, ``(K, V, N, 3, 3)``."""
    moves = [(far * x, far * y) for far in _BESIDE for x, y in product((-1, 0, 1), repeat=2) if x or y]
    shifts = torch.eye(3, dtype=torch.float64).repeat(len(moves), 1, 1)
    shifts[:, :2, 2] = torch.tensor(moves, dtype=torch.float64)
    return shifts[:, None, None] @ homographies


def _agreement(model: VALDM, latents: Samples, homographies: Tensor, neighbors: Tensor) -> Tensor:
    """Mean cosine ``(K, V, N)`` of views and what their neighbors show by ``homographies (K, V, N, 3, 3)``."""
    every = homographies.flatten(1, 2)
    found = [_cosines(model.appearance(z[None])[0], every, neighbors) for z in islice(latents, _SAMPLES)]
    return torch.stack(found).mean(0).unflatten(1, neighbors.shape)


def _cosines(features: Tensor, homographies: Tensor, neighbors: Tensor) -> Tensor:
    """Those of one sample's ``features (V, C, h, w)``, slot by slot: ``(K, V N)`` of ``(K, V N, 3, 3)``."""
    target = features.repeat_interleave(neighbors.shape[1], 0)
    source = features[neighbors.clamp(min=0).flatten().to(features.device)]
    found = []
    for H in homographies.to(features):
        brought, seen = homography_warp(source, H, return_mask=True)
        cosine = window_cosine(target, brought, seen[:, None], _WINDOW).flatten(1).sum(1)
        found.append((cosine / seen.flatten(1).sum(1).clamp(min=1)).cpu())
    return torch.stack(found)
