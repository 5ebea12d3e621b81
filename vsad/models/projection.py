"""Where every view's points lie in its neighbors, at any resolution of the features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vsad.geometry import Rig, scale_homography
from vsad.geometry.checks import Size


class Projection(NamedTuple):
    """Homographies between the views of a sample, as ``homography_align`` takes them, of features of one size.

    Args:
        homography: ``(1 or B, V, N, 3, 3)``, source from target between features of ``size``, oriented.
        neighbors: ``(V, N)`` int64, the source view of every slot, -1 where it is empty.
        size: ``(height, width)`` of those features.
    """

    homography: Tensor
    neighbors: Tensor
    size: Size

    @classmethod
    def of(cls, rig: Rig, size: Size, device: torch.device | str | None = None) -> Projection:
        """That of a rig, for features of ``size`` of its images."""
        homography, neighbors = rig.to_operator(size, device=device)
        return cls(homography[None], neighbors, size)

    def at(self, size: Size) -> Projection:
        """The same between features of another size."""
        if size == self.size:
            return self
        return self._replace(homography=scale_homography(self.homography, self.size, size), size=size)

    def unknown(self) -> Projection:
        """The same slots with the identity as homography: what a network that learns homographies begins with."""
        eye = torch.eye(3, dtype=self.homography.dtype, device=self.homography.device)
        return self._replace(homography=eye.expand(self.homography.shape))


def nearest(projections: Sequence[Projection], size: Size) -> Projection:
    """Of projections coarse to fine, each for features of twice the size, the one for features of ``size``."""
    finest = projections[-1]
    coarser = max(0, round(math.log2(finest.size[0] / size[0])))
    return projections[max(0, len(projections) - 1 - coarser)].at(size)
