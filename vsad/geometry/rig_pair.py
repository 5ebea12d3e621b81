"""One ordered pair of views, and what a rig demands of its views, size and pairs: errors name pair and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vsad.geometry.checks import Size
from vsad.geometry.homography import orient_homography, scale_homography
from vsad.geometry.rig_file import pair_name

# In coordinates where the image is [-1, 1]^2; real views stay far below, three collinear corners are infinite.
_MAX_CONDITION = 1e8


@dataclass(frozen=True, eq=False)
class RigPair:
    """One ordered pair of views and how its homography came about.

    Args:
        target: name of the view whose pixels ask.
        source: name of the view that answers.
        homography: ``(3, 3)``, source from target; a tensor, an array or nested lists.
        inliers: matches that support the homography; None when it was not measured.
        error_px: their root mean square reprojection error in source pixels; None when it was not measured.
    """

    target: str
    source: str
    homography: Tensor
    inliers: int | None = None
    error_px: float | None = None


def checked_views(views: Sequence[str]) -> tuple[str, ...]:
    """Return the views' names as a tuple; refuse none at all, repeated or empty ones."""
    named = isinstance(views, (list, tuple)) and views and all(isinstance(view, str) and view for view in views)
    if not named or len(set(views)) != len(views):
        raise ValueError(f"rig: views must be a list of unique names, at least one, got {views!r}")
    return tuple(views)


def checked_rig_size(size: Size) -> Size:
    """Return ``(height, width)``; refuse what is not two positive ``int``."""
    if len(size) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size):
        raise ValueError(f"rig: size must be (height, width), two positive integers, got {tuple(size)}")
    return size[0], size[1]


def checked_pair(pair: RigPair, views: tuple[str, ...], size: Size) -> RigPair:
    """Return the pair with an oriented float64 homography, or explain what is wrong with it."""
    name = pair_name(pair.target, pair.source)
    for view in (pair.target, pair.source):
        if view not in views:
            raise ValueError(f"rig: {name} must join views of the rig ({', '.join(views)}), got {view!r}")
    if pair.target == pair.source:
        raise ValueError(f"rig: {name} must join two different views; delete it")
    try:
        H = torch.as_tensor(pair.homography, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        H = torch.empty(0)
    if H.shape != (3, 3):
        raise ValueError(f"rig: {name} homography must be 3 rows of 3 numbers, got {pair.homography!r}")
    if not torch.isfinite(H).all():
        raise ValueError(f"rig: {name} homography must be finite, got {H.tolist()}; fit it again or delete the pair")
    for key, value in (("inliers", pair.inliers), ("error_px", pair.error_px)):
        if value is not None and not (isinstance(value, (int, float)) and value >= 0):
            raise ValueError(f"rig: {name} {key} must be a number >= 0, got {value!r}; mend or delete it")
    height, width = size
    unit = scale_homography(H, size, (1, 1))
    # Numbers near the greatest overflow here.
    if not torch.isfinite(unit).all() or not torch.linalg.cond(unit) < _MAX_CONDITION:
        raise ValueError(
            f"rig: {name} homography must be invertible for {height} x {width} images, got {H.tolist()}; "
            "fit it again or delete the pair"
        )
    H = orient_homography(H, size)
    if not H[2] @ H.new_tensor([(width - 1) / 2, (height - 1) / 2, 1.0]) > 0:
        raise ValueError(f"rig: {name} homography must not send the image center to infinity; fit it again")
    return replace(pair, homography=H)
