"""The definition of homography_warp in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.reference_sampling import coordinate_limit, project
from .call import WarpCall


def reference(call: WarpCall) -> tuple[Tensor, Tensor]:
    """The definition, on ``grid_sample``."""
    input, homography, size, mode, padding = call.input, call.homography, call.size, call.mode, call.padding
    B, _, H, W = input.shape
    sx, sy, front = project(homography, size, coordinate_limit(homography.dtype, (H, W)), (H, W))
    mask = front & (sx >= 0) & (sx <= W - 1) & (sy >= 0) & (sy <= H - 1)
    if 0 in (B, *size):
        return input.new_zeros((B, input.shape[1], *size)), mask.expand(B, *size)
    # grid_sample in its own units, in the coordinates' precision: half a pixel is 1 / size
    grid = torch.stack([(2 * sx + 1) / W - 1, (2 * sy + 1) / H - 1], dim=-1).expand(B, -1, -1, -1)
    out = F.grid_sample(input.to(grid.dtype), grid, mode=mode, padding_mode=padding, align_corners=False)
    out = torch.where(front[:, None], out, 0)
    if not input.is_floating_point():
        out = out.detach().round().clamp(0, 255)  # round() takes ties to the even neighbor
    return out.to(input.dtype), mask.expand(B, *size)
