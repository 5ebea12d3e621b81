"""Launcher of the Triton kernels in ``kernels/homography_align``."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from vsad.kernels.homography_align.backward import Gradients, backward_kernel
from vsad.kernels.homography_align.forward import forward_kernel
from vsad.kernels.homography_align.launch_shapes import launch_shape
from vsad.kernels.homography_align.window import Image, Sizes

from ..common.fixed_point import fixed_point_scale, from_fixed_point, largest
from ..common.layout import empty_like_layout, in_layout_of
from ..common.tensors import batch_stride
from .call import AlignCall, empty_sums


def forward(call: AlignCall) -> tuple[Tensor, ...]:
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, ``peak`` and ``log_sum`` (see ``empty_sums``)."""
    with torch.cuda.device_of(call.query):
        out, peak, log_sum = empty_like_layout(call.query, call.value.shape[2]), *empty_sums(call)
        call, (C, CV) = _readable(call), _channels_per_head(call)
        shape = launch_shape(C, CV, call.query.element_size(), call.window)
        programs, images = _programs(call, shape), (call.query, call.key, call.value, out)
        if programs:
            forward_kernel[(programs,)](
                *(_image(t) for t in images[:3]), call.homography, call.neighbors, call.bias, _image(out), peak,
                log_sum, _sizes(call), call.scale, C=C, CV=CV, R=call.window,
                WIDE=any(_beyond_int32(t) for t in images), enable_fp_fusion=True, **shape,
            )  # fmt: skip
        return out, peak, log_sum


def backward(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no.

    The kernel recomputes the outputs. The gradients of key and value are added up atomically, in float32 or, when
    ``call.deterministic``, as 64-bit fixed-point numbers.
    """
    grad_out, grad_log_sum = grads
    assert grad_out is not None
    with torch.cuda.device_of(call.query):
        readable, grad_out = _readable(call), _channels_last(grad_out)
        grad_log_sum = None if grad_log_sum is None else grad_log_sum.float().contiguous()
        shape = launch_shape(*_channels_per_head(call), call.query.element_size(), call.window, backward=True)
        programs = _programs(call, shape)
        grad_query = empty_like_layout(call.query, call.query.shape[2]) if needs[0] else None
        sums, scales = _empty_sums(call, needs, programs), None
        if programs:
            scales = _fixed_point_scales(call, grad_out, grad_log_sum) if call.deterministic else None
            _launch_backward(readable, grad_out, grad_log_sum, grad_query, sums, scales, programs, shape)
        return call.query.new_empty((0,)) if grad_query is None else grad_query, *_results(call, sums, scales)


def _launch_backward(
    call: AlignCall,
    grad_out: Tensor,
    grad_log_sum: Tensor | None,
    grad_query: Tensor | None,
    sums: Gradients,
    scales: Tensor | None,
    programs: int,
    shape: dict[str, int],
) -> None:
    C, CV = _channels_per_head(call)
    images = [call.query, call.key, call.value, grad_out]
    written = [grad_query, *(None if t is None else t.movedim(-1, 2) for t in (sums.key, sums.value))]
    wide = any(_beyond_int32(t) for t in (*images, *written) if t is not None)
    backward_kernel[(programs,)](
        *(_image(t) for t in images[:3]), call.homography, call.neighbors, call.bias,
        _image(grad_out), grad_log_sum, _image(call.query if grad_query is None else grad_query), sums, scales,
        _sizes(call), call.scale, QUERY=grad_query is not None, C=C, CV=CV, R=call.window, FIXED=scales is not None,
        WIDE=wide, enable_fp_fusion=True, **shape,
    )  # fmt: skip


def _empty_sums(call: AlignCall, needs: tuple[bool, ...], programs: int) -> Gradients:
    """What the kernel writes: zeroed, and wider than the gradients, where it adds up."""
    (B, V), heads, R, like = call.query.shape[:2], call.heads, call.window, call.homography
    dtype = torch.int64 if call.deterministic else torch.float32
    parts = (B, V, programs // max(B * V * heads, 1), heads, call.neighbors.shape[1])
    key, value = (
        like.new_zeros((*t.shape[:2], *t.shape[3:], t.shape[2]), dtype=dtype) if need else None
        for t, need in ((call.key, needs[1]), (call.value, needs[2]))
    )
    return Gradients(
        key=key,
        value=value,
        homography=like.new_zeros((*parts, 3, 3)) if needs[3] else None,
        bias=like.new_zeros((*parts, R, R)) if needs[4] and call.bias is not None else None,
    )


def _results(call: AlignCall, sums: Gradients, scales: Tensor | None) -> tuple[Tensor, ...]:
    """The gradients of key, value, homography and bias in the shape, dtype and layout of the arguments."""
    images = []
    for i, (like, total) in enumerate(((call.key, sums.key), (call.value, sums.value))):
        if total is not None and scales is not None:
            total = from_fixed_point(total, scales[i], like.dtype)
        images.append(like.new_empty((0,)) if total is None else in_layout_of(like, total))
    grad_homography, grad_bias = (call.homography.new_empty((0,)) for _ in range(2))  # results may not alias
    if sums.homography is not None:
        batches = call.homography.shape[0] == call.query.shape[0]
        over = (2, 3) if batches else (0, 2, 3)  # one homography serves the whole batch
        total = sums.homography.sum(over, dtype=torch.float64).to(call.homography.dtype)
        grad_homography = total.view(call.homography.shape)
    if sums.bias is not None:
        grad_bias = sums.bias.sum((0, 1, 2), dtype=torch.float64).to(call.homography.dtype)
    return *images, grad_homography, grad_bias


def _fixed_point_scales(call: AlignCall, grad_out: Tensor, grad_log_sum: Tensor | None) -> Tensor:
    """The scales of the fixed-point gradients of key and value.

    The weights of a pixel sum to 1, so a tap receives at most max |grad_out| from each pixel; and the gradients of the
    pixel's logits sum to at most 2 max |<grad_out, value>| + max |grad_log_sum|.
    """
    _, V, _, H, W = call.query.shape
    largest_out, largest_value, largest_query = (largest(t) for t in (grad_out, call.value, call.query))
    largest_logit = 2 * (call.value.shape[2] // call.heads) * largest_out * largest_value
    if grad_log_sum is not None:
        largest_logit = largest_logit + largest(grad_log_sum)
    bounds = torch.stack((abs(call.scale) * largest_query * largest_logit, largest_out)) * (V * H * W)
    return fixed_point_scale(bounds)


def _readable(call: AlignCall) -> AlignCall:
    """The call as the kernels read it best: images with channels last, the other tensors contiguous."""
    return call._replace(
        query=_channels_last(call.query),
        key=_channels_last(call.key),
        value=_channels_last(call.value),
        homography=call.homography.contiguous(),
        neighbors=call.neighbors.contiguous(),
        bias=None if call.bias is None else call.bias.contiguous(),
    )


def _channels_per_head(call: AlignCall) -> tuple[int, int]:
    return call.query.shape[2] // call.heads, call.value.shape[2] // call.heads


def _sizes(call: AlignCall) -> Sizes:
    _, V, _, H, W = call.query.shape
    _, S, _, Hs, Ws = call.value.shape
    return Sizes(V, S, call.neighbors.shape[1], call.heads, H, W, Hs, Ws, batch_stride(call.homography))


def _programs(call: AlignCall, shape: dict[str, int]) -> int:
    B, V, _, H, W = call.query.shape
    return B * V * call.heads * int(triton.cdiv(H, shape["TILE_H"]) * triton.cdiv(W, shape["TILE_W"]))


def _image(t: Tensor) -> Image:
    return Image(t, *t.stride())


def _channels_last(t: Tensor) -> Tensor:
    """t, or a copy whose channels lie side by side, so that taps are loaded in pieces of 16 bytes."""
    return t if t.stride(2) == 1 else t.movedim(2, -1).contiguous().movedim(-1, 2)


def _beyond_int32(t: Tensor) -> bool:
    """Whether offsets within one view of t need 64 bits."""
    return sum((n - 1) * stride for n, stride in zip(t.shape[2:], t.stride()[2:])) >= 2**31
