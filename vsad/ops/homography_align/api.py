"""Attention of every pixel to the windows around its projections into neighbouring views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.checks import autocast, check_device, check_same, check_shapes, compute_dtype
from ..common.layout import empty_like_layout
from ..common.reference_sampling import bilinear, project
from ..common.registry import REFERENCE, Op, cpu_backend, cuda_backend, register, triton_backend

NAME = "homography_align"


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
    r"""Fuse homography warp and windowed cross-view attention; nothing per window cell is ever stored.

    For target view i, pixel p = (x, y) and slot n with source view ``j = neighbors[i, n]``::

        (X, Y, Z) = homography[i, n] (x, y, 1),    sx = X / Z,    sy = Y / Z
        logit[n, a, b] = scale * <q_i(p), k_j(sx + b, sy + a)> + bias[n, a, b],    |a|, |b| <= (window - 1) / 2
        out(p) = sum softmax(logit)[n, a, b] * v_j(sx + b, sy + a)

    ``k_j(.)`` and ``v_j(.)`` are bilinear; the softmax runs over all valid cells of all slots.

    Convention:
        Pixel coordinates are (x, y), y down, the centre of pixel (i, j) is x=j, y=i. A homography maps target pixels
        to source pixels. A cell is valid when the point is in front (Z > 0), the slot is not empty and the cell lies
        within the centres of the source's border pixels. A pixel without a valid cell gives out = 0, lse = -inf and
        zero gradients; NaN or infinite homographies make points invalid, never an error.

    Args:
        query: ``(B, V, C, H, W)``, float32, float64, float16 or bfloat16; any strides, channels-last is fastest.
        key: ``(B, S, C, Hs, Ws)``.
        value: ``(B, S, Cv, Hs, Ws)``.
        homography: ``(B, V, N, 3, 3)``, ``(1, V, N, 3, 3)`` or ``(V, N, 3, 3)``, any floating dtype.
        neighbors: ``(V, N)`` int64, -1 marks an empty slot. None: every other view in order (needs S == V).
        heads: divides C and Cv; head h owns the h-th group of consecutive channels.
        window: odd, in source pixels.
        bias: ``(heads, window, window)`` or ``(heads, N, window, window)``, added to the logits.
        scale: of the dot product; ``1 / sqrt(C / heads)`` by default.
        return_lse: also return the logarithm of the sum of exponentials.
        deterministic: bit-identical gradients on every run; None follows
            ``torch.are_deterministic_algorithms_enabled()``. The CPU backend always is; the CUDA backend gathers then,
            the Triton backend sums in 64-bit whole numbers.
        backend: ``"cpu"``, ``"cuda"`` (window up to 7), ``"triton"``, ``"torch"``; None takes the first that can.

    Returns:
        ``out (B, V, Cv, H, W)`` in query's dtype and layout, and with ``return_lse`` also ``lse (B, V, heads, H, W)``,
        float32 (float64 for float64 input). Differentiable in query, key, value, homography and bias.

    Raises:
        ValueError: a shape, dtype, device, window, heads or neighbour index is wrong; the message names it.
        RuntimeError: the named backend cannot run this call; the message says why.

    Example:
        >>> feature = torch.randn(1, 5, 32, 32, 64).movedim(-1, 2)    # (B, V, C, H, W), channels last in memory
        >>> out = vsad.ops.homography_align(feature, feature, feature, rig_homography, rig_neighbors, heads=4)

    Source: the multi-view alignment module of ViewSense-AD (arXiv 2511.18766).
    """
    query, key, value = autocast(query, key, value)
    homography = homography[None] if isinstance(homography, Tensor) and homography.ndim == 4 else homography
    if neighbors is None:
        neighbors = _every_other_view(query, key)
    sizes = _check(query, key, value, homography, neighbors, heads, window)
    compute = compute_dtype(query.dtype)
    homography = homography.to(compute)
    bias = _full_bias(bias, query, heads, sizes["N"], window, compute)
    scale = (sizes["C"] // heads) ** -0.5 if scale is None and sizes["C"] else float(scale or 0.0)
    deterministic = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic

    chosen = OP.choose(query, key, value, backend=backend, window=window, heads=heads)
    if chosen == REFERENCE:
        out, lse = reference(query, key, value, homography, neighbors, bias, heads, window, scale)
    else:
        out, lse = _HomographyAlign.apply(
            query, key, value, homography, bias, neighbors, (heads, window, scale, deterministic, chosen)
        )
    return (out, lse) if return_lse else out


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    bias: Tensor | None,
    heads: int,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The definition, one window cell at a time; differentiable by autograd, on any device, in any dtype."""
    B, V, C, H, W = query.shape
    Cv, radius = value.shape[2], window // 2
    compute = homography.dtype
    q = query.unflatten(2, (heads, C // heads))
    logits = [query.new_full((B, V, heads, H, W), float("-inf"), dtype=compute)]
    values = [query.new_zeros((B, V, heads, Cv // heads, H, W))]

    for n in range(neighbors.shape[1]):
        sx, sy, useful = project(homography[:, :, n], (H, W), radius, (key.shape[3], key.shape[4]))
        useful = useful & (neighbors[:, n] >= 0)[:, None, None]
        k, v = (t[:, neighbors[:, n].clamp(min=0)] for t in (key, value))  # (B, V, C, Hs, Ws)
        for a in range(-radius, radius + 1):
            for b in range(-radius, radius + 1):
                sampled, inside = bilinear(k, sx + b, sy + a)
                logit = scale * (q * sampled.unflatten(2, q.shape[2:4])).sum(3).to(compute)
                if bias is not None:
                    logit = logit + bias[:, n, a + radius, b + radius, None, None]
                valid = (useful & inside)[:, :, None]
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
        homography=(homography, "Bh V N 3 3"),
    )
    check_same(NAME, query=query, key=key, value=value)
    check_device(NAME, query=query, homography=homography, neighbors=neighbors)
    if sizes["Bh"] not in (1, sizes["B"]):
        raise ValueError(f"{NAME}: homography must have batch 1 or B={sizes['B']}, got {sizes['Bh']}")
    if not homography.is_floating_point():
        raise ValueError(f"{NAME}: homography must be floating point, got {homography.dtype}; call .float()")
    if neighbors.dtype != torch.int64:
        raise ValueError(f"{NAME}: neighbors must be int64, got {neighbors.dtype}; call .long()")
    if sizes["Hs"] == 0 or sizes["Ws"] == 0:
        raise ValueError(f"{NAME}: key must have at least one pixel, got {list(key.shape)}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"{NAME}: window must be odd and positive, got {window}; use {max(window, 0) + 1}")
    if heads < 1 or sizes["C"] % heads or sizes["Cv"] % heads:
        raise ValueError(f"{NAME}: heads must divide C={sizes['C']} and Cv={sizes['Cv']}, got {heads}")
    # values of a GPU tensor are not read (it would stall the stream); kernels treat what is out of range as empty
    if neighbors.device.type == "cpu" and not torch.compiler.is_compiling() and neighbors.numel():
        low, high = (int(t) for t in neighbors.aminmax())
        if low < -1 or high >= sizes["S"]:
            wrong = low if low < -1 else high
            raise ValueError(f"{NAME}: neighbors must lie in [-1, S={sizes['S']}), got {wrong}; -1 marks an empty slot")
    return sizes


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


torch.library.define(
    "vsad::homography_align_fwd",
    "(Tensor query, Tensor key, Tensor value, Tensor homography, Tensor? bias, Tensor neighbors, "
    "int heads, int window, float scale, str backend) -> (Tensor, Tensor)",
)
torch.library.define(
    "vsad::homography_align_bwd",
    "(Tensor grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor homography, Tensor? bias, "
    "Tensor neighbors, Tensor out, Tensor lse, int heads, int window, float scale, bool deterministic, "
    "bool[] needs, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("vsad::homography_align_fwd", "CompositeExplicitAutograd")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    bias: Tensor | None,
    neighbors: Tensor,
    heads: int,
    window: int,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    module = OP.backend(backend).load()
    result: tuple[Tensor, Tensor] = module.forward(query, key, value, homography, neighbors, bias, heads, window, scale)
    return result


@torch.library.impl("vsad::homography_align_bwd", "CompositeExplicitAutograd")
def _backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    bias: Tensor | None,
    neighbors: Tensor,
    out: Tensor,
    lse: Tensor,
    heads: int,
    window: int,
    scale: float,
    deterministic: bool,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    module = OP.backend(backend).load()
    result: tuple[Tensor, ...] = module.backward(
        grad_out, grad_lse, query, key, value, homography, neighbors, bias, out, lse,
        heads, window, scale, deterministic, needs,
    )  # fmt: skip
    return result


@torch.library.register_fake("vsad::homography_align_fwd")
def _(
    query: Tensor, key: Tensor, value: Tensor, homography: Tensor, bias: Any, neighbors: Any, heads: int, *_: Any
) -> tuple[Tensor, Tensor]:
    B, V, _C, H, W = query.shape
    lse = query.new_empty((B, V, heads, H, W), dtype=homography.dtype)
    return empty_like_layout(query, value.shape[2]), lse


@torch.library.register_fake("vsad::homography_align_bwd")
def _(
    grad_out: Tensor,
    grad_lse: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    bias: Any,
    *rest: Any,
) -> tuple[Tensor, ...]:
    *_, needs, _backend = rest
    grads = [empty_like_layout(t, t.shape[2]) for t in (query, key, value)]
    grads.append(homography.new_empty(homography.shape))
    grads.append(homography.new_empty((0,) if bias is None else bias.shape))
    return tuple(g if need else g.new_empty((0,)) for g, need in zip(grads, needs))


_fwd = torch.ops.vsad.homography_align_fwd.default
_bwd = torch.ops.vsad.homography_align_bwd.default


class _HomographyAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, options = arguments  # query, key, value, homography, bias, neighbors
        heads, window, scale, _, backend = options
        out, lse = _fwd(*tensors, heads, window, scale, backend)
        ctx.save_for_backward(*tensors, out, lse)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, out, lse = ctx.saved_tensors
        heads, window, scale, deterministic, backend = ctx.options
        needs = list(ctx.needs_input_grad[:5])
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        grads = _bwd(grad_out, grad_lse, *tensors, out, lse, heads, window, scale, deterministic, needs, backend)
        return *(g if need else None for g, need in zip(grads, needs)), None, None


CUDA_WINDOWS = (1, 3, 5, 7)  # that csrc/cuda is compiled for


def _cuda_why_not(*tensors: Tensor, window: int, heads: int) -> str | None:
    return None if window in CUDA_WINDOWS else f"takes windows {CUDA_WINDOWS}, got {window}"


def _triton_why_not(query: Tensor, key: Tensor, value: Tensor, window: int, heads: int) -> str | None:
    channels = query.shape[2] // heads, value.shape[2] // heads
    if not 1 <= min(channels) <= max(channels) <= 1024:
        return f"takes 1 to 1024 channels a head, got C={query.shape[2]}, Cv={value.shape[2]}, heads={heads}"
    if window > 15:
        return f"takes windows up to 15, got {window}"
    return None


OP = register(
    Op(
        name=NAME,
        public=homography_align,
        reference=reference,
        backends=(cpu_backend(NAME), cuda_backend(NAME, _cuda_why_not), triton_backend(NAME, _triton_why_not)),
    )
)
