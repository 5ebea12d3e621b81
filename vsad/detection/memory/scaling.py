"""Scaling of features, so that no channel or direction of them outweighs another in a distance."""

from __future__ import annotations

import torch
from torch import Tensor

# In shares of the mean eigenvalue: directions in which normal features hardly vary are mostly noise.
SHRINKAGE = 1e-2


def scaling(features: Tensor, whiten: bool) -> Tensor:
    """``(C, C)`` W, such that no channel, or with ``whiten`` no direction, of ``f W`` outweighs another.

    Without ``whiten`` every channel of ``features (..., C)`` gets deviation 1; with it the covariance becomes the
    identity, up to shrinkage, and Euclidean distances become Mahalanobis distances.
    """
    rows = features.reshape(-1, features.shape[-1])
    if not whiten:
        return torch.diag(1 / rows.std(0, correction=0).clamp(min=1e-6))
    centered = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(rows))
    return vectors / (values.clamp(min=0) + SHRINKAGE * values.mean() + 1e-12).sqrt()


def apply_scaling(features: Tensor, transform: Tensor) -> Tensor:
    """``(*, C, h, w)`` times ``(C, D)``."""
    return (features.movedim(-3, -1) @ transform).movedim(-1, -3)
