"""The definition of homography_align in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.layout import empty_like_layout
from ..common.reference_sampling import bilinear, project
from .call import AlignCall


def reference(call: AlignCall) -> tuple[Tensor, Tensor]:
    """The definition, one window cell at a time; differentiable by autograd, on any device, in any dtype."""
    query, key, value, homography, neighbors, bias, heads, window, scale, _ = call
    B, V, C, H, W = query.shape
    Cv, radius = value.shape[2], window // 2
    compute = homography.dtype
    q = query.unflatten(2, (heads, C // heads))
    logits = [query.new_full((B, V, heads, H, W), float("-inf"), dtype=compute)]
    values = [query.new_zeros((B, V, heads, Cv // heads, H, W))]

    for n in range(neighbors.shape[1]):
        sx, sy, within_reach = project(homography[:, :, n], (H, W), radius, (key.shape[3], key.shape[4]))
        within_reach = within_reach & (neighbors[:, n] >= 0)[:, None, None]
        k, v = (t[:, neighbors[:, n].clamp(min=0)] for t in (key, value))  # (B, V, C, Hs, Ws)
        for a in range(-radius, radius + 1):
            for b in range(-radius, radius + 1):
                sampled, inside = bilinear(k, sx + b, sy + a)
                logit = scale * (q * sampled.unflatten(2, q.shape[2:4])).sum(3).to(compute)
                if bias is not None:
                    logit = logit + bias[:, n, a + radius, b + radius, None, None]
                valid = (within_reach & inside)[:, :, None]
                logits.append(torch.where(valid, logit, float("-inf")))
                # what is not valid must not be read: zero times NaN is NaN
                sampled = torch.where(valid, bilinear(v, sx + b, sy + a)[0], 0)
                values.append(sampled.unflatten(2, (heads, Cv // heads)))

    stacked = torch.stack(logits)  # (cells, B, V, heads, H, W)
    peak = stacked.detach().amax(0)
    exponential = torch.exp(stacked - torch.where(peak == float("-inf"), 0, peak))
    total = exponential.sum(0)
    nowhere = total == 0
    total = torch.where(nowhere, 1, total)
    alpha = (exponential / total).to(query.dtype)
    out = sum((alpha[i].unsqueeze(3) * v for i, v in enumerate(values)), torch.zeros_like(values[0]))
    lse = torch.where(nowhere, float("-inf"), torch.where(nowhere, 0, peak) + total.log())
    result = empty_like_layout(query, Cv)
    return torch.empty_like(result).copy_(out.flatten(2, 3)), lse
