"""Launcher of ``csrc/cpu/prototype_distance.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cpu

from ._call import DTYPES, threads

METRICS = {"euclidean": 0, "sqeuclidean": 1, "cosine": 2}  # Metric in csrc/cpu/prototype_distance.h
CENTER_ROWS = 1024  # any centre gives the same result; the mean of so many rows is near enough to the bank's


def forward(features: Tensor, prototypes: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Distances ``(M, k)``, ascending, in features' dtype, and int64 indices, of the k nearest of ``(P, C)``."""
    (M, C), P = features.shape, prototypes.shape[0]
    distances = features.new_empty((M, k))
    indices = features.new_empty((M, k), dtype=torch.int64)
    sample = prototypes[:: P // CENTER_ROWS + 1]
    center = sample.mean(0, dtype=torch.float32).nan_to_num(nan=0, posinf=0, neginf=0).contiguous()
    _cpu.prototype_distance(
        dtype=DTYPES[features.dtype],
        metric=METRICS[metric],
        threads=threads(M * P * C),
        sizes=(M, P, C, k),
        features=(features.data_ptr(), *features.stride()),
        prototypes=(prototypes.data_ptr(), *prototypes.stride()),
        distances=distances.data_ptr(),
        indices=indices.data_ptr(),
        center=center.data_ptr(),
        packed=0,
    )
    return distances, indices
