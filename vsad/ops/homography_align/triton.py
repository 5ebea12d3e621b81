"""Launcher of the Triton kernels in ``kernels/homography_align``."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from vsad.kernels.common.device import on_its_device
from vsad.kernels.homography_align.backward import Gradients, backward_kernel
from vsad.kernels.homography_align.forward import forward_kernel
from vsad.kernels.homography_align.launch_shapes import launch_shape
from vsad.kernels.homography_align.window import Image, Sizes

from ..common.layout import empty_like_layout, in_layout_of
from ..common.tensors import batch_stride

INTEGER_BITS = 61  # of the greatest possible sum of fixed-point numbers: leaves a sign and a factor of two


@on_its_device
def forward(
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
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, and ``lse (B, V, heads, H, W)``."""
    out = empty_like_layout(query, value.shape[2])
    return out, _forward_into(out, query, key, value, homography, neighbors, bias, heads, window, scale)


def _forward_into(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    bias: Tensor | None,
    heads: int,
    window: int,
    scale: float,
) -> Tensor:
    """``lse (B, V, heads, H, W)``; fills out, of any dtype."""
    B, V, C, H, W = query.shape
    CV = value.shape[2]
    lse = homography.new_empty((B, V, heads, H, W))
    query, key, value = (_channels_last(t) for t in (query, key, value))
    shape = launch_shape(C // heads, CV // heads, query.element_size(), window)
    programs = _programs(lse, shape)
    if programs:
        homography = homography.contiguous()
        forward_kernel[(programs,)](
            *(_image(t) for t in (query, key, value)), homography, neighbors.contiguous(), _contiguous(bias),
            _image(out), lse, _sizes(query, value, homography, neighbors, heads), scale,
            C=C // heads, CV=CV // heads, R=window, WIDE=any(_beyond_int32(t) for t in (query, key, value, out)),
            enable_fp_fusion=True, **shape,
        )  # fmt: skip
    return lse


@on_its_device
def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    neighbors: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    heads: int,
    window: int,
    scale: float,
    deterministic: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no."""
    B, V, C, H, W = query.shape
    CV = value.shape[2]
    queries, keys, values, grad_out = (_channels_last(t) for t in (query, key, value, grad_out))
    homography, neighbors = homography.contiguous(), neighbors.contiguous()
    if out.dtype != torch.float32:  # <grad_out, out> of a rounded out would cost the logits' gradients their accuracy
        out = homography.new_empty((B, V, H, W, CV)).movedim(-1, 2)
        lse = _forward_into(out, queries, keys, values, homography, neighbors, bias, heads, window, scale)
    shape = launch_shape(C // heads, CV // heads, query.element_size(), window, backward=True)
    programs = _programs(lse, shape)
    grads = _empty_gradients(
        query, key, value, homography, bias, neighbors, lse, window, programs, deterministic, needs
    )
    factors = None
    if programs:
        if deterministic:
            factors = _fixed_point_factors(grad_out, grad_lse, queries, values, heads, scale)
        images = (queries, keys, values, out, grad_out, *(g for g in grads[:3] if g is not None))
        backward_kernel[(programs,)](
            *(_image(t) for t in (queries, keys, values)), homography, neighbors, _contiguous(bias), _image(out), lse,
            _image(grad_out), None if grad_lse is None else grad_lse.to(lse.dtype).contiguous(),
            Gradients(*(None if g is None else _image(g) for g in grads[:3]), *grads[3:]), factors,
            _sizes(query, value, homography, neighbors, heads), scale,
            C=C // heads, CV=CV // heads, R=window, FIXED=deterministic, WIDE=any(_beyond_int32(t) for t in images),
            enable_fp_fusion=True, **shape,
        )  # fmt: skip
    return _finish_gradients(grads, factors, query, key, value, homography)


def _empty_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    homography: Tensor,
    bias: Tensor | None,
    neighbors: Tensor,
    lse: Tensor,
    window: int,
    programs: int,
    deterministic: bool,
    needs: list[bool],
) -> Gradients:
    """The tensors that the kernel writes: zeroed, and wider than the results, where it adds up."""
    B, V, heads = lse.shape[:3]
    kind = torch.int64 if deterministic else torch.float32
    parts = (B, V, programs // max(B * V * heads, 1), heads, neighbors.shape[1])

    def sums(t: Tensor) -> Tensor:
        return homography.new_zeros((*t.shape[:2], *t.shape[3:], t.shape[2]), dtype=kind)

    return Gradients(
        query=empty_like_layout(query, query.shape[2]) if needs[0] else None,
        key=sums(key) if needs[1] else None,
        value=sums(value) if needs[2] else None,
        homography=homography.new_zeros((*parts, 3, 3)) if needs[3] else None,
        bias=homography.new_zeros((*parts, window, window)) if needs[4] and bias is not None else None,
    )


def _finish_gradients(
    grads: Gradients, factors: Tensor | None, query: Tensor, key: Tensor, value: Tensor, homography: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The results, from what the kernel added up."""
    nothing = query.new_empty((0,))
    images = []
    for i, (like, grad) in enumerate(((key, grads.key), (value, grads.value))):
        if grad is not None and factors is not None:
            grad = grad / factors[i]
        images.append(nothing if grad is None else in_layout_of(like, grad))
    grad_homography = grad_bias = homography.new_empty((0,))
    if grads.homography is not None:
        over = (2, 3) if homography.shape[0] == query.shape[0] else (0, 2, 3)  # one homography serves the whole batch
        total = grads.homography.sum(over, dtype=torch.float64).to(homography.dtype)
        grad_homography = total.view(homography.shape)
    if grads.bias is not None:
        grad_bias = grads.bias.sum((0, 1, 2), dtype=torch.float64).to(homography.dtype)
    return nothing if grads.query is None else grads.query, images[0], images[1], grad_homography, grad_bias


def _fixed_point_factors(
    grad_out: Tensor, grad_lse: Tensor | None, query: Tensor, value: Tensor, heads: int, scale: float
) -> Tensor:
    """The scales of the fixed-point gradients of key and value: the largest whose sum cannot overflow int64.

    The weights of a pixel sum to 1, so a tap receives at most max |grad_out| from each pixel; and the gradients of its
    logits sum to at most 2 max |<grad_out, value>| + max |grad_lse|.
    """
    _, V, _, H, W = query.shape
    largest_out, largest_value, largest_query = (_largest(t) for t in (grad_out, value, query))
    largest_logit = 2 * (value.shape[2] // heads) * largest_out * largest_value
    if grad_lse is not None:
        largest_logit = largest_logit + _largest(grad_lse)
    bounds = torch.stack((abs(scale) * largest_query * largest_logit, largest_out)) * (V * H * W)
    return 2.0**INTEGER_BITS / bounds.clamp(min=1e-250)


def _largest(t: Tensor) -> Tensor:
    if t.numel() == 0:
        return t.new_zeros((), dtype=torch.float64)
    low, high = t.aminmax()
    return torch.maximum(-low, high).double()


def _sizes(query: Tensor, value: Tensor, homography: Tensor, neighbors: Tensor, heads: int) -> Sizes:
    _, V, _, H, W = query.shape
    _, S, _, Hs, Ws = value.shape
    return Sizes(V, S, neighbors.shape[1], heads, H, W, Hs, Ws, batch_stride(homography))


def _programs(lse: Tensor, shape: dict[str, int]) -> int:
    B, V, heads, H, W = lse.shape
    return B * V * heads * triton.cdiv(H, shape["TILE_H"]) * triton.cdiv(W, shape["TILE_W"])


def _image(t: Tensor) -> Image:
    return Image(t, *t.stride())


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _channels_last(t: Tensor) -> Tensor:
    """t, or a copy whose channels lie side by side, so that taps are loaded in pieces of 16 bytes."""
    return t if t.stride(2) == 1 else t.movedim(2, -1).contiguous().movedim(-1, 2)


def _beyond_int32(t: Tensor) -> bool:
    """Whether offsets within one view of t need 64 bits."""
    return sum((n - 1) * stride for n, stride in zip(t.shape[2:], t.stride()[2:])) >= 2**31
