"""The arguments of prototype_distance, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from ..common.checks import check_choice, check_device, check_same, check_shapes

NAME = "prototype_distance"
Metric = Literal["euclidean", "sqeuclidean", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)


class DistanceCall(NamedTuple):
    """A checked call."""

    features: Tensor  # (M, C)
    prototypes: Tensor  # (P, C), features' dtype
    packed: Tensor | None  # what the same backend packed of the same prototypes for the same metric
    k: int
    metric: str


def check(call: DistanceCall) -> None:
    """Raises a ValueError or TypeError that names the argument which does not fit."""
    features, prototypes = call.features, call.prototypes
    P = check_shapes(NAME, features=(features, "M C"), prototypes=(prototypes, "P C"))["P"]
    check_same(NAME, features=features, prototypes=prototypes)
    if call.packed is not None:
        check_device(NAME, features=features, packed=call.packed)
    check_choice(NAME, "metric", call.metric, METRICS)
    check_filled(NAME, prototypes)
    if not 1 <= call.k <= P:
        raise ValueError(f"{NAME}: k must lie in [1, P={P}], got {call.k}; there are {P} prototypes to find")


def check_filled(op: str, prototypes: Tensor) -> None:
    if prototypes.shape[0] == 0:
        raise ValueError(f"{op}: prototypes must hold at least one row, got an empty bank; fit it on normal images")
