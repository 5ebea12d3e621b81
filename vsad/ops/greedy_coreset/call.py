"""The arguments of greedy_coreset, as they travel from the public function to the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
