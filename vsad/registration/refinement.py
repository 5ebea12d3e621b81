"""Refine what matches say on the pictures themselves: no further than these tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vsad.geometry import image_corners, transform_points
from vsad.registration.features import Matches
from vsad.registration.photometric import Pyramid
from vsad.registration.pose import nearest_similarity
from vsad.registration.robust import Candidate, count_inliers

# Where pictures agree so much, nothing is left to gain.
ALIKE = 0.9
# A further refinement, or a view's own, must agree by so much more.
_GAIN = 0.02
# A view refined by itself moves no corner farther than this share of the long side.
_TURNED = 0.04
# At most so often a refinement starts again where it ended.
_AGAIN = 5
# The share of a disagreement that four parameters more take away by chance is at most this over the number of pixels.
_CHANCE = 860.0


def refine_motion(
    template: Pyramid, gray: Tensor, candidates: Sequence[Candidate], matches: Matches
) -> tuple[Tensor, float]:
    """Find the motion in which the pictures agree most, as a similarity where they do not tell more.

    Where pictures agree little, a homography follows chance: on surfaces that are new in every sample it gained 0.01 of
    agreement and moved corners by 2 to 10 pixels. In a view that looks down, the motion of a product in its plane is a
    similarity; where the reference view looks askance, the pictures say so.

    Args:
        template: of the canonical pictures.
        gray: ``(V, h, w)`` uint8, the sample's pictures.
        candidates: one at least, all sure or none.
        matches: what they were fitted to.

    Returns:
        The motion, and the agreement in it.
    """
    found = max(
        ((template.fine if sure else template).refine(gray, start) for start, sure in candidates),
        key=lambda found: found[1],
    )
    if found[1] >= ALIKE:
        return found
    similar = settle(template, gray, nearest_similarity(found[0], template.fine.size), similar=True)
    if similar[1] < ALIKE:
        near = template.refine(gray, torch.eye(3, dtype=torch.float64), similar=True)
        # A background that was not left out agrees with no motion, but no matches on the product do.
        if near[1] > similar[1] and 2 * count_inliers(near[0], matches) >= count_inliers(found[0], matches):
            similar = settle(template, gray, near[0], similar=True)
    free = max(found, template.fine.refine(gray, similar[0]), key=lambda found: found[1])
    return settle(template, gray, free[0]) if _pays(free[1], similar[1], template) else similar


def settle(template: Pyramid, gray: Tensor, motion: Tensor, *, similar: bool = False) -> tuple[Tensor, float]:
    """Refine a motion while its agreement rises: smooth pictures are pixels off after the steps of one refinement."""
    found = template.refine(gray, motion, similar=similar)
    for _ in range(_AGAIN):
        if found[1] >= ALIKE:
            break
        further = template.refine(gray, found[0], similar=similar)
        if further[1] < found[1] + _GAIN:
            break
        found = further
    return found


def refine_views(templates: Sequence[Pyramid], gray: Tensor, H: Tensor) -> tuple[Tensor, float]:
    """Refine every view by itself, for cameras that have turned a little.

    Args:
        templates: of each view alone.
        gray: ``(V, h, w)`` uint8, the sample's pictures.
        H: ``(len(templates), 3, 3)`` float64, how the views lie.

    Returns:
        How they lie, and their mean agreement, in which a view counts by its texture.
    """
    refined, agreements = H.clone(), []
    size = templates[0].fine.size
    corners = image_corners(size, dtype=H.dtype)
    for row, template in enumerate(templates):
        before = template.fine.agreement(gray, H[row])
        found, after = template.refine(gray, H[row], similar=True)
        free = template.fine.refine(gray, found)
        if _pays(free[1], after, template):
            found, after = free
        moved = transform_points(torch.linalg.inv(H[row]) @ found, corners) - corners
        if after > before + _GAIN and float(moved.norm(dim=-1).max()) < _TURNED * max(size):
            refined[row], before = found, after
        agreements.append(before)
    texture = torch.tensor([template.fine.texture for template in templates])
    return refined, float((torch.tensor(agreements) * texture).sum() / texture.sum())


def _pays(free: float, similar: float, template: Pyramid) -> bool:
    """Tell whether a homography agrees by more than what its further parameters gain by chance."""
    return free >= ALIKE or 1 - free < (1 - _CHANCE / len(template.fine.chosen)) * (1 - similar)
