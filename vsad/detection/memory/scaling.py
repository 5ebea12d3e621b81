"""Scaling of features to units of what normal samples differ by."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad.scratch import Samples

# In shares of the mean eigenvalue: directions in which normal samples hardly differ are mostly noise.
SHRINKAGE = 1e-2


def scaling(features: Samples, seen: Samples) -> Tensor:
    """``(C, C)`` W, such that ``f W`` has the covariance ``I / C`` about the mean at its place.

    The covariance is that of the residuals of normal samples, ``f_s(p) - mean_s f_s(p)``, over all places p: the
    directions in which light, exposure and a product's surface change from sample to sample weigh less than those in
    which normal samples are alike (Mahalanobis; within-class whitening). A squared distance of two is usual.

    Args:
        features: of normal samples, ``(S, V, C, h, w)``.
        seen: which of them say anything, ``(S, V, h, w)`` bool.
    """
    total = torch.zeros_like(features[0], dtype=torch.float64)
    count = torch.zeros_like(total[:, :1])
    for sample, mask in zip(features, seen):
        weight = mask[:, None].to(sample)  # (V, 1, h, w)
        total += sample * weight
        count += weight
    mean = (total / count.clamp(min=1)).to(features[0])
    products, number = total.new_zeros(total.shape[1], total.shape[1]), 0
    for sample, mask in zip(features, seen):
        rows = (sample - mean).movedim(1, -1)[mask]  # (K, C)
        products += rows.T @ rows
        number += len(rows)
    values, vectors = torch.linalg.eigh((products / max(number, 1)).to(mean))
    spread = values.clamp(min=0) + SHRINKAGE * values.mean() + 1e-12
    return vectors / (spread * len(values)).sqrt()


def apply_scaling(features: Tensor, transform: Tensor) -> Tensor:
    """``(*, C, h, w)`` times ``(C, D)``."""
    return (features.movedim(-3, -1) @ transform).movedim(-1, -3)
