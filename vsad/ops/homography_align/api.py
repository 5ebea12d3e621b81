"""The public function homography_align: argument checks and default values."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import (
    autocast,
    check_device,
    check_floating,
    check_same,
    check_shapes,
    check_tensor,
    compute_dtype,
    is_deterministic,
)
from .call import NAME, AlignCall, check_neighbors
from .registration import run


def homography_align(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor | None = None,
    *,
    heads: int = 1,
    window: int = 3,
    bias: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    deterministic: bool | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attend from every target pixel to the window around its projection into each neighboring view.

    Nothing is stored per window cell.

    For target view i, pixel p = (x, y) and slot n with source view ``j = neighbors[i, n]``::

        (X, Y, Z) = homography[i, n] (x, y, 1),    sx = X / Z,    sy = Y / Z
        logit[n, a, b] = scale * <q_i(p), k_j(sx + b, sy + a)> + bias[n, a, b],    |a|, |b| <= (window - 1) / 2
        out(p) = sum softmax(logit)[n, a, b] * v_j(sx + b, sy + a)

    ``k_j(.)`` and ``v_j(.)`` are bilinear; the softmax runs over all valid cells of all slots.

    Convention:
        Pixel coordinates are (x, y), y down, the center of pixel (i, j) is x=j, y=i. A homography maps target pixels
        to source pixels. A cell is valid when the point is in front (Z > 0), the slot is not empty and the cell lies
        within the centers of the source's border pixels. A pixel without a valid cell gives out = 0, lse = -inf and
        zero gradients; NaN or infinite homographies make points invalid, never an error.

    Args:
        query: ``(B, V, C, H, W)``, float32, float64, float16 or bfloat16; any strides, channels-last is fastest.
        key: ``(B, S, C, Hs, Ws)``.
        value: ``(B, S, Cv, Hs, Ws)``.
        homography: ``(B, V, N, 3, 3)``, ``(1, V, N, 3, 3)`` or ``(V, N, 3, 3)``, any floating dtype.
        neighbors: ``(V, N)`` int64, -1 marks an empty slot. None: every other view in order (needs S == V).
        heads: number of heads; divides C and Cv; head h owns the h-th group of consecutive channels.
        window: side of the square window in source pixels; odd.
        bias: ``(heads, window, window)`` or ``(heads, N, window, window)``, added to the logits.
        scale: factor on the dot product; ``1 / sqrt(C / heads)`` by default.
        return_lse: also return the logarithm of the sum of exponentials.
        deterministic: bit-identical gradients on every run; None follows
            ``torch.are_deterministic_algorithms_enabled()``. The CPU backend is always deterministic;
            when this is set, the CUDA backend gathers instead of adding atomically, and the Triton backend sums in
            64-bit integers.
        backend: ``"cpu"``, ``"cuda"`` (window up to 7), ``"triton"``, ``"torch"``; None takes the first
            backend in the table that accepts the call.

    Returns:
        ``out (B, V, Cv, H, W)`` in query's dtype and layout, and with ``return_lse`` also ``lse (B, V, heads, H, W)``,
        float32 (float64 for float64 input). Differentiable in query, key, value, homography and bias.

    Raises:
        ValueError: a shape, dtype, device, window, heads or neighbor index is wrong; the message names it.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> feature = torch.randn(1, 5, 32, 32, 64).movedim(-1, 2)    # (B, V, C, H, W), channels last in memory
        >>> out = vsad.ops.homography_align(feature, feature, feature, rig_homography, rig_neighbors, heads=4)

    Source: the multi-view alignment module of ViewSense-AD (arXiv 2511.18766).
    """
    query, key, value = autocast(query, key, value)
    if neighbors is None:
        neighbors = _every_other_view(query, key)
    sizes = _check(query, key, value, homography, neighbors, heads, window)
    compute = compute_dtype(query.dtype)
    call = AlignCall(
        query=query,
        key=key,
        value=value,
        homography=(homography[None] if homography.ndim == 4 else homography).to(compute),
        neighbors=neighbors,
        bias=_full_bias(bias, query, heads, sizes["N"], window, compute),
        heads=heads,
        window=window,
        scale=(sizes["C"] // heads) ** -0.5 if scale is None and sizes["C"] else float(scale or 0.0),
        deterministic=is_deterministic(deterministic),
    )
    out, peak, log_sum = run(call, backend)
    return (out, peak + log_sum) if return_lse else out


def _every_other_view(query: Tensor, key: Tensor) -> Tensor:
    V, S = query.shape[1], key.shape[1]
    if V != S:
        raise ValueError(f"{NAME}: neighbors must be given when views differ from source views, got V={V}, S={S}")
    index = torch.arange(V * max(V - 1, 0), device=query.device).view(V, max(V - 1, 0))
    row, slot = torch.arange(V, device=query.device)[:, None], index - index[:, :1]
    return slot + (slot >= row)


def _check(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int, window: int
) -> dict[str, int]:
    sizes = check_shapes(
        NAME,
        query=(query, "B V C H W"),
        key=(key, "B S C Hs Ws"),
        value=(value, "B S Cv Hs Ws"),
        neighbors=(neighbors, "V N"),
    )
    _check_homography(homography, sizes["B"], sizes["V"], sizes["N"])
    check_same(NAME, query=query, key=key, value=value)
    check_device(NAME, query=query, homography=homography, neighbors=neighbors)
    check_floating(NAME, "homography", homography)
    if neighbors.dtype != torch.int64:
        raise ValueError(f"{NAME}: neighbors must be int64, got {neighbors.dtype}; call .long()")
    if sizes["Hs"] == 0 or sizes["Ws"] == 0:
        raise ValueError(f"{NAME}: key must have at least one pixel, got {list(key.shape)}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"{NAME}: window must be odd and positive, got {window}; use {max(window, 0) + 1}")
    if heads < 1 or sizes["C"] % heads or sizes["Cv"] % heads:
        raise ValueError(f"{NAME}: heads must divide C={sizes['C']} and Cv={sizes['Cv']}, got {heads}")
    # On a GPU the values are not read; kernels treat what is out of range as empty.
    if neighbors.device.type == "cpu" and not torch.compiler.is_compiling():
        check_neighbors(neighbors, sizes["S"])
    return sizes


def _check_homography(homography: Tensor, B: int, V: int, N: int) -> None:
    """One matrix for every neighbor slot of every target view."""
    check_tensor(NAME, "homography", homography)
    shape = list(homography.shape)
    if shape in ([V, N, 3, 3], [1, V, N, 3, 3], [B, V, N, 3, 3]):
        return
    if len(shape) not in (4, 5) or shape[-2:] != [3, 3]:
        remedy = "stack one matrix per slot, or expand one for all"
    elif shape[-3] != N:
        remedy = (
            "slot n of view v maps its pixels into source view neighbors[v, n], so give neighbors as many columns as "
            "there are homographies per view"
        )
    elif shape[-4] != V:
        remedy = "give homographies for every view of query"
    else:
        remedy = "give one set for the whole batch, or one for each of its elements"
    raise ValueError(
        f"{NAME}: homography must hold a 3 x 3 matrix for each of the N={N} neighbor slots of each of the V={V} target "
        f"views, [{V}, {N}, 3, 3] or with batch 1 or B={B} in front, got {shape}; {remedy}"
    )


def _full_bias(
    bias: Tensor | None, query: Tensor, heads: int, slots: int, window: int, dtype: torch.dtype
) -> Tensor | None:
    """``bias`` as ``(heads, N, R, R)``; autograd sums the gradient back over what was expanded."""
    if bias is None:
        return None
    if not bias.is_floating_point():
        raise ValueError(f"{NAME}: bias must be floating point, got {bias.dtype}")
    full = bias[:, None] if bias.ndim == 3 else bias
    if full.shape not in ((heads, 1, window, window), (heads, slots, window, window)):
        raise ValueError(
            f"{NAME}: bias must be [heads R R] or [heads N R R] with heads={heads}, N={slots}, R={window}, "
            f"got {list(bias.shape)}"
        )
    check_device(NAME, query=query, bias=bias)
    return full.expand(heads, slots, window, window).to(dtype)
