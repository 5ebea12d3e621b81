"""The definition of homography_align in plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..common.layout import copy_like_layout
from ..common.reference_sampling import bilinear, project
from .call import AlignCall


def reference(call: AlignCall) -> tuple[Tensor, Tensor, Tensor]:
    """``out``, ``peak`` and ``log_sum`` (see ``empty_sums``), one window cell at a time, rounded only at the end.

    Differentiable by autograd, twice too, on any device, in any dtype: what float16 and bfloat16 hold is computed in
    float32. Needs memory for some ten images of ``(B, V, C or Cv, H, W)``, and for three numbers for each of the N R^2
    cells of every pixel and head; where autograd records, for some ten such images per cell.
    """
    query, key, value = (t.to(call.homography.dtype) for t in (call.query, call.key, call.value))
    heads = call.heads
    q = query.unflatten(2, (heads, query.shape[2] // heads))
    logits = [query.new_full((*query.shape[:2], heads, *query.shape[3:]), float("-inf"))]
    for n, a, b, k, valid in _cells(call, key):
        logit = call.scale * (q * k.unflatten(2, q.shape[2:4])).sum(3)
        if call.bias is not None:
            logit = logit + call.bias[:, n, a, b, None, None]
        logits.append(torch.where(valid, logit, float("-inf")))

    stacked = torch.stack(logits)  # (1 + N R^2, B, V, heads, H, W)
    peak = stacked.detach().amax(0)
    exponential = torch.exp(stacked - torch.where(peak == float("-inf"), 0, peak))
    total = exponential.sum(0)
    total = torch.where(total == 0, 1, total)
    alpha = (exponential / total)[1:]

    out = value.new_zeros((*query.shape[:2], heads, value.shape[2] // heads, *query.shape[3:]))
    for weight, (_, _, _, v, _) in zip(alpha, _cells(call, value)):
        out = out + weight.unsqueeze(3) * v.unflatten(2, out.shape[2:4])
    return copy_like_layout(call.query, out.flatten(2, 3)), peak, total.log()


def _cells(call: AlignCall, image: Tensor) -> Iterator[tuple[int, int, int, Tensor, Tensor]]:
    """Every cell of the windows: slot, row, column, ``image`` sampled there, and whether it is valid.

    What is not valid is zero and not read, because zero times NaN would be NaN.
    """
    radius, S, size = call.window // 2, image.shape[1], (call.query.shape[3], call.query.shape[4])
    for n, source in enumerate(call.neighbors.unbind(1)):
        filled = (source >= 0) & (source < S)
        sx, sy, near = project(call.homography[:, :, n], size, radius, (image.shape[3], image.shape[4]))
        near = near & filled[:, None, None]
        views = image[:, torch.where(filled, source, 0)]
        for a in range(call.window):
            for b in range(call.window):
                sampled, inside = bilinear(views, sx + (b - radius), sy + (a - radius))
                valid = (near & inside).unsqueeze(2)
                yield n, a, b, torch.where(valid, sampled, 0), valid
