"""Scaling of features to units of what normal samples differ by."""

from __future__ import annotations

import torch
from torch import Tensor

# In shares of the mean eigenvalue: directions in which normal samples hardly differ are mostly noise.
SHRINKAGE = 1e-2


def scaling(features: Tensor, seen: Tensor) -> Tensor:
    """``(C, C)`` W, such that ``f W`` has the covariance ``I / C`` about the mean at its place.

    The covariance is that of the residuals of normal samples, ``f_s(p) - mean_s f_s(p)``, over all places p: the
    directions in which light, exposure and a product's surface change from sample to sample weigh less than those in
    which normal samples are alike (Mahalanobis; within-class whitening). A squared distance of two is usual.

    Args:
        features: of normal samples, ``(S, V, C, h, w)``.
        seen: which of them say anything, ``(S, V, h, w)`` bool.
    """
    weight = seen[:, :, None].to(features)
    mean = (features * weight).sum(0) / weight.sum(0).clamp(min=1)
    rows = (features - mean).movedim(2, -1)[seen]  # (K, C)
    values, vectors = torch.linalg.eigh(rows.T @ rows / max(len(rows), 1))
    spread = values.clamp(min=0) + SHRINKAGE * values.mean() + 1e-12
    return vectors / (spread * len(values)).sqrt()


def apply_scaling(features: Tensor, transform: Tensor) -> Tensor:
    """``(*, C, h, w)`` times ``(C, D)``."""
    return (features.movedim(-3, -1) @ transform).movedim(-1, -3)
