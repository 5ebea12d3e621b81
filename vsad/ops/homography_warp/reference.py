"""The definition of homography_warp in plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..common.layout import copy_like_layout
from ..common.reference_sampling import coordinate_limit, project
from .call import WarpCall


def reference(call: WarpCall) -> tuple[Tensor, Tensor]:
    """The definition: ``grid_sample`` without its normalized units, in which an identity would not be exact."""
    input, homography, size, mode, padding = call.input, call.homography, call.size, call.mode, call.padding
    B, C, H, W = input.shape
    sx, sy, front = project(homography, size, coordinate_limit(homography.dtype, (H, W)), (H, W))
    mask = front & (sx >= 0) & (sx <= W - 1) & (sy >= 0) & (sy <= H - 1)
    pixels = input.to(homography.dtype).flatten(2)  # (B, C, H * W)
    out = pixels.new_zeros((B, C, *size))
    for row, weight_y in _axis_taps(sy, H - 1, mode, padding):
        for column, weight_x in _axis_taps(sx, W - 1, mode, padding):
            inside = front & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            index = torch.where(inside, row * W + column, 0).flatten(1)[:, None].expand(B, C, -1)
            tap = pixels.gather(2, index).unflatten(2, size)
            tap = torch.where(inside[:, None], tap, 0)  # what lies outside must not be read: zero times NaN is NaN
            out = out + tap * (weight_y * weight_x)[:, None]
    if not input.is_floating_point():
        out = out.detach().round().clamp(0, 255)  # round() takes ties to the even neighbor
    return copy_like_layout(input, out), mask.expand(B, *size)


def _axis_taps(s: Tensor, last: int, mode: str, padding: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The index and the weight of each tap along one axis; with zeros as the padding, taps may lie outside."""
    if mode == "bicubic":
        if padding != "reflection":
            s = s.clamp(-8, last + 8)  # beyond, nothing changes with s
        left = s.detach().floor()
        f = s - left
        for k, weight in enumerate((_cubic_far(1 + f), _cubic_near(f), _cubic_near(1 - f), _cubic_far(2 - f))):
            yield _pad(left + (k - 1), last, padding).long(), weight
        return
    s = _pad(s, last, padding)
    if mode == "nearest":
        yield s.detach().round().long(), torch.ones_like(s)  # round() takes ties to the even neighbor
        return
    left = s.detach().floor()
    first, fraction = left.long(), s - left
    yield first, 1 - fraction
    # on the border the second tap has no weight; it must read no other pixel, which may be NaN
    yield first + 1 if padding == "zeros" else (first + 1).clamp(max=last), fraction


def _pad(s: Tensor, last: int, padding: str) -> Tensor:
    """The coordinate that padding leads to. On the border and beyond, it does not change with s."""
    if padding == "zeros":
        return s.clamp(-4, last + 4)  # beyond, every tap lies outside, and the index stays small
    if padding == "reflection":
        period = 2 * (last + 1)
        distance = (s + 0.5).abs()
        ahead = distance - (distance.detach() / period).floor() * period
        s = torch.where(2 * ahead > period, period - ahead, ahead) - 0.5
    return torch.where((s > 0) & (s < last), s, s.detach().clamp(0, last))


# The weight of a tap at distance x: cubic convolution with a = -3/4, as ``grid_sample`` has it.
A = -0.75


def _cubic_near(x: Tensor) -> Tensor:
    """For distances up to 1."""
    return ((A + 2) * x - (A + 3)) * x * x + 1


def _cubic_far(x: Tensor) -> Tensor:
    """For distances from 1 to 2."""
    return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
