"""The definition of greedy_coreset in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from .call import CoresetCall


def reference(call: CoresetCall) -> tuple[Tensor]:
    """The definition, one pick at a time."""
    features = call.features.detach().double()
    picks = torch.empty(call.size, dtype=torch.int64, device=features.device)
    nearest = torch.where(features.isfinite().all(1), float("inf"), 0.0).double()
    pick = torch.tensor(call.first_pick(), device=features.device)
    for i in range(call.size):
        picks[i] = pick
        nearest[pick] = -1  # never again, even where all distances are zero
        squared = (features - features[pick]).square().sum(1)
        nearest = torch.fmin(nearest, _to_24_bits(squared))  # NaN is no distance
        pick = nearest.argmax()
    return (picks,)


def _to_24_bits(x: Tensor) -> Tensor:
    """Rounded like float32, over float64's range, so that the order of summation hardly ever decides between equals."""
    return ((x.view(torch.int64) + (1 << 28)) & -(1 << 29)).view(torch.float64)
