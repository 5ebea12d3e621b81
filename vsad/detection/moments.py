"""L-moments: what few values tell of their distribution's place, width and skewness (Hosking 1990)."""

from __future__ import annotations

import math

import numpy as np


def l_moments(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of the Gumbel distribution of ascending scores ``(..., n)``."""
    n = ranked.shape[-1]
    mean = ranked.mean(-1)
    second = 2 * (ranked * np.arange(n)).sum(-1) / (n * (n - 1)) - mean  # half the mean difference of two scores
    scale = np.maximum(second / math.log(2), 1e-12)
    return mean - np.euler_gamma * scale, scale


def l_skewness(ranked: np.ndarray) -> float:
    """The third L-moment of ascending scores ``(n,)`` in shares of the second; 0 for fewer than three."""
    n, i = len(ranked), np.arange(len(ranked))
    if n < 3 or ranked[0] == ranked[-1]:
        return 0.0
    b0, b1 = ranked.mean(), (ranked * i).sum() / (n * (n - 1))
    b2 = (ranked * i * (i - 1)).sum() / (n * (n - 1) * (n - 2))
    return float((6 * b2 - 6 * b1 + b0) / (2 * b1 - b0))
