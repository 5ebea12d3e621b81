"""The arguments of greedy_coreset, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.checks import check_same, check_shapes

NAME = "greedy_coreset"


class CoresetCall(NamedTuple):
    """A checked call."""

    features: Tensor  # (M, C)
    size: int
    start: int | None
    seed: int

    def first_pick(self) -> int:
        """``start``, or a draw from ``seed``. Made inside the registered operator: compilers cannot trace the draw."""
        if self.start is not None:
            return self.start
        generator = torch.Generator("cpu").manual_seed(self.seed)
        return int(torch.randint(self.features.shape[0], (), generator=generator, device="cpu"))


def check(call: CoresetCall) -> None:
    """Raises a ValueError or TypeError that names the argument which does not fit."""
    M = check_shapes(NAME, features=(call.features, "M C"))["M"]
    check_same(NAME, features=call.features)
    if M == 0:
        raise ValueError(f"{NAME}: features must hold at least one row, got {list(call.features.shape)}")
    if not 1 <= call.size <= M:
        raise ValueError(f"{NAME}: size must lie in [1, M={M}], got {call.size}; there are {M} rows to pick from")
    if call.start is not None and not 0 <= call.start < M:
        raise ValueError(f"{NAME}: start must lie in [0, M={M}), got {call.start}; it is the index of a row")
    if not -(2**63) <= call.seed < 2**63:
        raise ValueError(f"{NAME}: seed must be a 64-bit integer, got {call.seed}")
