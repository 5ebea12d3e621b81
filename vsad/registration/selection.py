"""Whether registration is worth it at a station, and to which sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.checks import check_images
from vsad.geometry import Rig, Size, orient_homography, scale_homography, transform_points
from vsad.progress import SILENT, Progress
from vsad.registration.features import Sight, look, select_moving
from vsad.registration.pose import Pose
from vsad.registration.registration import Registration

_CANDIDATES, _JUDGES = 10, 8
# A candidate is good enough with this share of the best one's matches,
_ENOUGH = 0.7
# and where its pictures hold, but for this share, as much of the others as the best one's do.
_COVERED = 0.01
# The long side at which samples are compared, in pixels: a shift of one in a hundred parts of the picture is then a
# third of a pixel, about what a detector's windows forgive.
_COMPARE_SIDE = 32
# Registration resamples the pictures and takes time. It is worth that where half of the samples lie farther off than
# this share of the long side, 2.6 pixels of 256, which a detector's windows forgive,
_FORGIVEN = 0.01
# where the disagreement of this share of those that register falls, however little of it is not the surface's own,
_MOSTLY = 0.8
# (the canonical sample itself moves by rounding alone, in pixels)
_UNMOVED = 1e-6
# and where most samples register, since the others are judged out of place.
_MIN_REGISTERED = 0.75
# A difference of this many standard deviations of a view counts like any larger one.
_LARGE = 1.0
# A margin grows in steps of this share of the long side, in whole multiples of what a model divides pictures by,
_MARGIN_STEP, _DIVISOR = 1 / 16, 16
# as long as a step brings this share of the pixels a place, for it costs an eighth or more of the time,
_WORTH_A_STEP = 0.03
# and at most to this share of the long side.
_MAX_MARGIN = 1 / 4
# So many pixels of a picture along each side are looked at.
_GRID = 32


class RegistrationGain(NamedTuple):
    """What registration does to normal samples.

    Args:
        before: disagreement of normal samples as they lie, in standard deviations of a view.
        after: their disagreement in canonical pose.
        motion_px: how far the middling sample lies off, the median over the pixels of all views, in pixels.
        registered: share of the samples that can be registered.
        helps: whether registration is worth it.
        reason: why, in words.
    """

    before: float
    after: float
    motion_px: float
    registered: float
    helps: bool
    reason: str


class _Trial(NamedTuple):
    """How well the others register to a candidate, and how much of them its pictures hold."""

    registered: int
    inliers: float
    room: float
    motion_px: float
    candidate: int


def choose_canonical(samples: Sequence[Tensor], rig: Rig, *, progress: Progress = SILENT) -> int:
    """Choose the sample to which most others register, well, in whose pictures they have most room.

    Up to ten candidates, spread evenly over the samples, are tried on up to eight. Of those to which most of the eight
    register, with at least 0.7 of the best one's matches, it is the one whose pictures hold the largest share of the
    others' features: what lies beyond its pictures in every view has no place in canonical pose. Where several hold
    almost as many, it is the one from which the middling sample lies the least far off, since pictures that turn less
    lose less.

    Args:
        samples: normal samples, ``(V, 3, H, W)`` float in [0, 1] each.
        rig: the station's.
        progress: told of the candidates that are done.

    Returns:
        The index of the chosen sample.

    Raises:
        TypeError: a sample is no tensor of floating point.
        ValueError: there is no sample; or one has not a picture of every view, another size than the first, or values
            that are not in [0, 1].
    """
    if not len(samples):
        raise ValueError("choose_canonical: samples must hold at least one normal sample, got none; add some")
    candidates, judges = _spread(len(samples), _CANDIDATES), _spread(len(samples), _JUDGES)
    check_images("choose_canonical", samples[0], (len(rig.views), 3, "H", "W"))
    height, width = samples[0].shape[-2:]
    sights = {
        index: _look("choose_canonical", samples[index], len(rig.views), (height, width))
        for index in sorted({*candidates, *judges})
    }
    trials = []
    for candidate in progress.track(candidates, "choosing the canonical sample"):
        others = [sight.gray for index, sight in sights.items() if index != candidate]
        registration = Registration.from_sight(sights[candidate], (height, width), rig, others)
        poses = {j: registration.estimate_sight(sights[j], refine=False) for j in judges if j != candidate}
        poses = {judge: pose for judge, pose in poses.items() if pose.reason is None}
        if poses:
            motion = np.median([_motion(pose.H_sample_from_canonical, (height, width)) for pose in poses.values()])
            room = np.mean([_room(sights[judge], pose, registration) for judge, pose in poses.items()])
            inliers = np.median([pose.inliers for pose in poses.values()])
            trials.append(_Trial(len(poses), float(inliers), float(room), float(motion), candidate))
    if not trials:
        return candidates[0]
    most = max(trial.registered for trial in trials)
    trials = [trial for trial in trials if trial.registered == most]
    trials = [trial for trial in trials if trial.inliers >= _ENOUGH * max(t.inliers for t in trials)]
    trials = [trial for trial in trials if trial.room >= max(t.room for t in trials) - _COVERED]
    return min(trials, key=lambda trial: trial.motion_px).candidate


def registration_helps(
    samples: Sequence[Tensor], registration: Registration, *, max_samples: int = 16, progress: Progress = SILENT
) -> RegistrationGain:
    """Measure on normal samples whether registration is worth it.

    The disagreement of sample n is ``mean_x min(|p_n(x) - median_{m != n} p_m(x)|, 1)`` over pictures p of 32 pixels,
    each view of zero mean and unit deviation; that of all is the median over the samples. So coarse, a product that
    lies in place within a pixel or two of 256 differs by little more than its light, and one that lies anywhere by its
    whole pattern. Registration helps where half of the samples lie off by more than a hundredth of the
    long side, four in five of those that register disagree less, and three in four register: elsewhere it would cost
    time and the blur of interpolation for nothing. By how much less does not matter: where every sample has a surface
    of its own, that stays.

    Args:
        samples: normal samples, ``(V, 3, H, W)`` float in [0, 1] each.
        registration: to the canonical one.
        max_samples: at most so many are used, spread evenly.
        progress: told of the samples that are done.

    Returns:
        The two disagreements, the share of samples that register, and the decision with its reason.
    """
    chosen = _spread(len(samples), max_samples)
    if len(chosen) < 2:
        return RegistrationGain(0.0, 0.0, 0.0, 0.0, False, "off: fewer than two normal samples to compare")
    pictures, brought, seen, moved_px = [], [], [], []
    for index in progress.track(chosen, "measuring what registration gains"):
        sight = _look("registration_helps", samples[index], len(registration.gray), registration.image_size)
        pose = registration.estimate_sight(sight)
        gray = sight.gray[:, None].float() / 255
        moved, mask = registration.to_canonical(gray, pose)
        pictures.append(_small(gray))
        brought.append(_small(moved))
        seen.append(F.adaptive_avg_pool2d(mask.float(), (brought[-1].shape[-2], brought[-1].shape[-1])) > 0.9)
        moved_px.append(
            _motion(pose.H_sample_from_canonical, registration.image_size) if pose.reason is None else math.nan
        )
    moving = ~registration.still.cpu()
    product = F.adaptive_avg_pool2d(moving.float(), (seen[0].shape[-2], seen[0].shape[-1])) > 0.5
    if not product.any():
        return RegistrationGain(0.0, 0.0, 0.0, 0.0, False, "off: the normal samples lie in place")
    each_before = _disagreements(torch.stack(pictures), product.expand(len(chosen), *product.shape))
    each_after = _disagreements(torch.stack(brought), torch.stack(seen) & product)
    before, after = float(np.median(each_before)), float(np.median(each_after))
    motions = np.array(moved_px)
    falls = (each_after < each_before)[motions > _UNMOVED]  # all but the canonical sample's
    registered = motions[np.isfinite(motions)]
    share, motion = len(registered) / len(chosen), float(np.median(registered)) if len(registered) else 0.0
    if share < _MIN_REGISTERED:
        helps, reason = False, f"only {share:.0%} of the normal samples can be registered"
        reason += f", and {1 - float(moving.float().mean()):.0%} of the pictures stand still"
    else:
        helps = motion > _FORGIVEN * max(registration.image_size) and bool(falls.mean() >= _MOSTLY)
        reason = (
            f"normal samples lie {motion:.1f} px off; they differ by {before:.2f}, in canonical pose by {after:.2f}"
        )
    return RegistrationGain(before, after, motion, share, helps, f"{'on' if helps else 'off'}: {reason}")


def choose_margin(
    samples: Sequence[Tensor], registration: Registration, *, max_samples: int = 16, progress: Progress = SILENT
) -> int:
    """Choose how far canonical pictures reach beyond the canonical sample's own, for what other samples show there.

    A camera that sees a part of the product sees another part of one that is turned, which may lie beyond the canonical
    picture. The margin grows in steps of a sixteenth of the long side, as long as a step brings three in a hundred of
    the normal samples' pixels a place, those left out that show the background in most samples. Pixels count and not
    features, for a plain product has few.

    Args:
        samples: normal samples, ``(V, 3, H, W)`` float in [0, 1] each.
        registration: to the canonical one.
        max_samples: at most so many are used, spread evenly.
        progress: told of the samples that are done.

    Returns:
        The margin in pixels of the images, a multiple of 16.
    """
    size = registration.image_size
    moving = F.interpolate((~registration.still.cpu())[None].float(), (_GRID, _GRID))[0] > 0
    y, x = ((torch.arange(_GRID, dtype=torch.float64) + 0.5) * n / _GRID - 0.5 for n in size)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # (rows, columns, 2)
    beyond = []
    for index in progress.track(_spread(len(samples), max_samples), "choosing the margin"):
        sight = _look("choose_margin", samples[index], len(registration.gray), registration.image_size)
        pose = registration.estimate_sight(sight, refine=False)
        if pose.reason is None:
            beyond += [_overhang(H, grid[seen], size) for H, seen in zip(_canonical_from_sample(pose, size), moving)]
    overhang = torch.cat([*beyond, grid.new_empty(0)])
    step, margin = _DIVISOR * max(round(max(size) * _MARGIN_STEP / _DIVISOR), 1), 0
    while margin + step <= _MAX_MARGIN * max(size):
        gained = (overhang > margin) & (overhang <= margin + step)
        if int(gained.sum()) <= _WORTH_A_STEP * len(overhang):
            break
        margin += step
    return margin


def _look(owner: str, images: Tensor, views: int, size: Size) -> Sight:
    check_images(owner, images, (views, 3, *size))
    return look(images)


def _room(sight: Sight, pose: Pose, registration: Registration) -> float:
    """The share of a sample's features, of all views, that lie in the canonical sample's pictures."""
    work = registration.work_size
    H = scale_homography(_canonical_from_sample(pose, registration.image_size), registration.image_size, work)
    overhang = torch.cat([
        _overhang(H_view, select_moving(features, still).points[:, :2], work)
        for features, H_view, still in zip(sight.features, H, registration.still.cpu())
    ])  # fmt: skip
    return float((overhang <= 0).sum()) / max(len(overhang), 1)


def _canonical_from_sample(pose: Pose, size: Size) -> Tensor:
    return orient_homography(torch.linalg.inv(pose.H_sample_from_canonical), size)


def _overhang(H: Tensor, points: Tensor, size: Size) -> Tensor:
    """How far points ``(K, 2)``, brought to the canonical sample's pictures, lie beyond them: ``(K,)``, in pixels.

    Not above zero for those that lie in them; infinite for those behind the camera.
    """
    mapped, in_front = transform_points(H, points, return_mask=True)
    limit = torch.tensor([size[1] - 1, size[0] - 1])
    return torch.maximum(-mapped, mapped - limit).amax(-1).where(in_front, torch.inf)


def _motion(H: Tensor, size: Size) -> float:
    """The median distance by which homographies ``(V, 3, 3)`` move the pixels of the views."""
    xs, ys = (torch.linspace(0, n - 1, 16, dtype=H.dtype) for n in (size[1], size[0]))
    grid = torch.cartesian_prod(xs, ys)
    return float((transform_points(H, grid) - grid).norm(dim=-1).median())


def _spread(total: int, count: int) -> list[int]:
    """Indices spread evenly over ``total``."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(total, count)).round()})


def _small(pictures: Tensor) -> Tensor:
    """Average ``(V, 1, h, w)`` to the comparing size, each view of zero mean and unit deviation, ``(V, h', w')``."""
    height, width = pictures.shape[-2:]
    scale = _COMPARE_SIDE / max(height, width)
    small = F.adaptive_avg_pool2d(pictures[:, 0], (max(1, round(height * scale)), max(1, round(width * scale))))
    mean, deviation = small.mean((1, 2), keepdim=True), small.std((1, 2), keepdim=True)
    return (small - mean) / (deviation + 1e-3)


def _disagreements(pictures: Tensor, seen: Tensor) -> np.ndarray:
    """The mean clipped difference of every sample's pictures ``(S, V, h, w)`` from the others' median, ``(S,)``."""
    differences = []
    for n in range(len(pictures)):
        others = torch.cat([pictures[:n], pictures[n + 1 :]]).median(0).values
        difference = (pictures[n] - others).abs().clamp(max=_LARGE)
        differences.append(float(difference[seen[n]].mean()))
    return np.array(differences)
