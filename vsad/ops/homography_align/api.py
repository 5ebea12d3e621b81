"""The public function homography_align: argument checks and default values."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ..common.checks import (
    autocast,
    check_device,
    check_flag,
    check_floating,
    check_tensor,
    compute_dtype,
    is_deterministic,
    number,
)
from ..common.eager import is_watched
from ..common.launches import signature
from .call import NAME, AlignCall, check_heads, check_images, check_neighbors, check_window
from .registration import LAUNCHES, run


@overload
def homography_align(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor | None = None,
    *,
    heads: int = ...,
    window: int = ...,
    bias: Tensor | None = ...,
    scale: float | None = ...,
    return_lse: Literal[False] = ...,
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> Tensor: ...


@overload
def homography_align(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor | None = None,
    *,
    heads: int = ...,
    window: int = ...,
    bias: Tensor | None = ...,
    scale: float | None = ...,
    return_lse: Literal[True],
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def homography_align(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor | None = None,
    *,
    heads: int = ...,
    window: int = ...,
    bias: Tensor | None = ...,
    scale: float | None = ...,
    return_lse: bool,
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


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
        window: side of the square window in source pixels; odd, at most 255.
        bias: ``(heads, window, window)`` or ``(heads, N, window, window)``, added to the logits.
        scale: factor on the dot product; ``1 / sqrt(C / heads)`` by default. A factor that is learned multiplies
            ``query`` instead.
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

    In torch:
        NaN in a query, or in a key or value that a valid cell reads, gives NaN at that pixel and head. Under autocast
        query, key and value are taken in autocast's dtype, and logits and sums in float32. Second derivatives run the
        reference, at its speed and with its memory. ``torch.func.vmap`` joins its batch with B, and calls the operator
        once for each element where neighbors or bias are batched; forward-mode differentiation, and a compiled
        ``torch.func.grad``, are offered by ``backend="torch"`` only. On the CPU, Ctrl-C ends a call, usually within 200
        ms; the backward needs, beside its results, memory for the largest image gradient where an input is not channels
        last, and for float16 and bfloat16 4 bytes for each element of query, key, value and out.

    Raises:
        ValueError: a shape, dtype, device, window, heads or neighbor index is wrong; the message names it. On a GPU,
            and where values cannot be read (under a compiler, for instance), an index that is out of range is taken
            for an empty slot instead.
        TypeError: an argument is not of its type, such as a scale that is a tensor.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> feature = torch.randn(1, 2, 48, 64, 32).movedim(-1, 2)  # (B, V, C, H, W), channels last in memory
        >>> right_from_left = torch.tensor([[1.0, 0.0, -8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> homography = torch.stack([right_from_left, right_from_left.inverse()])[:, None]  # (V, N, 3, 3)
        >>> out = vsad.ops.homography_align(feature, feature, feature, homography, heads=4)
        >>> out.shape
        torch.Size([1, 2, 32, 48, 64])

    Source: the multi-view alignment module of ViewSense-AD (arXiv 2511.18766).
    """
    options = heads, window, scale, return_lse, deterministic, backend
    known = signature(query, key, value, homography, neighbors, bias, *options)
    launch = LAUNCHES.find(known)
    if launch:
        if neighbors is None:
            neighbors = _every_other_view(query, key)
        elif neighbors.is_cpu:
            check_neighbors(neighbors, key.shape[1])
        out, peak, log_sum = launch(query, key, value, homography, neighbors, bias, return_lse)
        return (out, peak + log_sum) if return_lse else out
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        check_tensor(NAME, name, tensor)
    check_flag(NAME, "return_lse", return_lse)
    query, key, value = autocast(query, key, value)
    if neighbors is None:
        neighbors = _every_other_view(query, key)
    sizes = check_images(query, key, value, neighbors)
    _check_homography(homography, sizes["B"], sizes["V"], sizes["N"])
    heads, window = check_heads(heads, sizes["C"], sizes["Cv"]), check_window(window)
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
        scale=_scale(scale, sizes["C"] // heads),
        deterministic=is_deterministic(NAME, deterministic),
    )
    check_device(NAME, query=query, homography=homography, neighbors=neighbors)
    # Where the values cannot be read, and on a GPU, where reading would stall its stream, kernels take what is out of
    # range for an empty slot.
    if neighbors.is_cpu and not is_watched((query, key, value, homography, neighbors, bias)):
        check_neighbors(neighbors, sizes["S"])
    out, peak, log_sum = run(call, backend, known)
    return (out, peak + log_sum) if return_lse else out


def _every_other_view(query: Tensor, key: Tensor) -> Tensor:
    if query.ndim != 5 or key.ndim != 5 or query.shape[1] != key.shape[1]:
        raise ValueError(
            f"{NAME}: neighbors must be given where views differ from source views, got query {list(query.shape)} and "
            f"key {list(key.shape)}, which must be [B V C H W] and [B S C Hs Ws]"
        )
    V, device = query.shape[1], query.device
    index = torch.arange(V * max(V - 1, 0), device=device).view(V, max(V - 1, 0))
    row, slot = torch.arange(V, device=device)[:, None], index - index[:, :1]
    return slot + (slot >= row)


def _scale(scale: object, channels: int) -> float:
    """The factor on the dot product of ``channels`` channels; where there are none, it does not matter."""
    if scale is None:
        return channels**-0.5 if channels else 0.0
    return number(NAME, "scale", scale, "multiply query by it and pass scale=1.0, so that its gradient is kept")


def _check_homography(homography: Tensor, B: int, V: int, N: int) -> None:
    """One matrix for every neighbor slot of every target view."""
    check_tensor(NAME, "homography", homography)
    check_floating(NAME, "homography", homography)
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
    check_tensor(NAME, "bias", bias)
    check_floating(NAME, "bias", bias)
    full = bias[:, None] if bias.ndim == 3 else bias
    if full.shape not in ((heads, 1, window, window), (heads, slots, window, window)):
        raise ValueError(
            f"{NAME}: bias must be [heads R R] or [heads N R R] with heads={heads}, N={slots}, R={window}, "
            f"got {list(bias.shape)}; give one window for each head, or one for each head and slot"
        )
    check_device(NAME, query=query, bias=bias)
    return full.expand(heads, slots, window, window).to(dtype)
