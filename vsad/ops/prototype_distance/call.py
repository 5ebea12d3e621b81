"""The arguments of prototype_distance, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NAME = "prototype_distance"
METRICS = ("euclidean", "sqeuclidean", "cosine")


class DistanceCall(NamedTuple):
    """A checked call."""

    features: Tensor  # (M, C)
    prototypes: Tensor  # (P, C), features' dtype
    packed: Tensor | None  # what the same backend packed of the same prototypes for the same metric
    k: int
    metric: str
