"""Launcher of the CUDA kernels in ``csrc/homography_align/cuda``.

The kernels read channels-last tensors whose heads fill packs of 16 bytes. Every other tensor is copied once, its heads
padded with zeros. That moves each of its bytes twice; the kernels load every pixel (R + 1)^2 times per slot, and
loading its channels one by one would take 4 or 8 times as many loads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.cuda_layout import copy_image
from ..common.layout import empty_like_layout
from ..common.registry import Launch
from ..common.stream import stream_of
from ..common.tensors import image, pointer
from .arguments import align_arguments, contiguous, fitting, gradient_arguments
from .call import AlignCall, empty_sums

PACK_BYTES = 16
TILE_PIXELS = 16  # target pixels in a tile of the backward on tensor cores
MAX_STEP, MARGIN = 2**31 - 1, 8  # the most elements that a row of a view and a window beside it may span


def forward(call: AlignCall) -> tuple[Tensor, ...]:
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, ``peak`` and ``log_sum`` (see ``empty_sums``)."""
    return prepare(call)(*call[:6])


def prepare(call: AlignCall) -> Launch:
    """What launches calls like this one; peak and log_sum on request."""
    Cv, heads, dtype = call.value.shape[2], call.heads, call.query.dtype
    result, *sums = empty_like_layout(call.query, Cv), *empty_sums(call)
    is_packed = _is_packed(result, heads)
    out = result if is_packed else _empty_packed(call.query, Cv, heads, dtype)
    images = call.query, call.key, call.value
    are_packed = all(_is_packed(t, heads) for t in images)
    query, key, value = (t if _is_packed(t, heads) else _empty_packed(t, t.shape[2], heads, dtype) for t in images)
    arguments = _arguments(contiguous(call)._replace(query=query, key=key, value=value), out, *sums)
    layout, shape, fit = (result.shape, result.stride()), sums[0].shape, fitting(call)
    del call, result, sums, out, images, query, key, value  # a launch holds no tensors

    def launch(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        homography: Tensor,
        neighbors: Tensor,
        bias: Tensor | None,
        with_sums: bool = True,
    ) -> tuple[Tensor | None, ...]:
        homography, neighbors, bias = fit(homography, neighbors, bias)
        result, peak, log_sum = query.new_empty_strided(*layout), None, None
        out = result if is_packed else _empty_packed(query, Cv, heads, dtype)
        if with_sums:
            peak, log_sum = homography.new_empty(shape), homography.new_empty(shape)
        if not are_packed:
            query, key, value = (_packed(t, heads) for t in (query, key, value))
        with stream_of(query) as stream:
            placed = arguments.placed(query, key, value, homography, neighbors, bias, out, peak, log_sum)
            _cuda.homography_align_forward(placed, stream)
        if not is_packed:
            _copy_heads(result, out, Cv, heads)
        return result, peak, log_sum

    return launch


def backward(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no.

    Tensor cores gather the gradients of key and value, whose bits are the same on every run. Elsewhere they are added
    up atomically in float32, for which float16 / bfloat16 need a copy of that size, and their last bits differ from run
    to run; ``call.deterministic`` gathers them instead.
    """
    (out, peak, log_sum), (grad_out, grad_log_sum) = outputs, grads
    assert grad_out is not None
    packed = _packed_call(call)
    grad_out = _packed(grad_out, call.heads)
    grad_log_sum = None if grad_log_sum is None else grad_log_sum.float().contiguous()
    if _cuda.homography_align_has_mma_backward(_arguments(packed, None, None, None), image(grad_out)):
        return _backward_mma(call, packed, grad_out, grad_log_sum, needs)
    gathers = call.deterministic and (needs[1] or needs[2])
    exact: Tensor | None = None
    if out.dtype == torch.float32:
        exact = _packed(out, call.heads)
    else:
        # <grad_out, out> of a rounded out would cost the logits' gradients their accuracy, and tensor cores find other
        # logits than the backward: it recomputes the softmax, and leaves it for the gather.
        peak, log_sum = empty_sums(call)
    # what was saved may come back in another layout, from vmap or from a hook of saved tensors
    peak, log_sum = peak.contiguous(), log_sum.contiguous()
    tiles = _cuda.homography_align_tiles(*call.query.shape[3:])
    sums = _empty_sums(call, needs, gathers, tiles)
    inner = torch.empty_like(peak) if gathers else None
    boxes = _empty_boxes(call, _cuda.homography_align_boxes(*call.query.shape[3:])) if gathers else None
    arguments = _arguments(packed, exact, peak, log_sum)
    gradients = _cuda.AlignGradients(**gradient_arguments(grad_out, grad_log_sum, sums))
    with stream_of(call.query) as stream:
        gather = {"inner": pointer(inner), "boxes": pointer(boxes), "stream": stream}
        _cuda.homography_align_backward(arguments, gradients, **gather)
        if gathers:
            _cuda.homography_align_gather(arguments, gradients, **gather)
    return _results(call, sums)


def _backward_mma(
    call: AlignCall, packed: AlignCall, grad_out: Tensor, grad_log_sum: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """The backward of float16 / bfloat16 on tensor cores, which finds the softmax for itself."""
    B, V, _, H, W = call.query.shape
    tiles, N, taps_of_window = _cuda.homography_align_mma_tiles(H, W), call.neighbors.shape[1], (call.window + 1) ** 2
    sums = _empty_sums(call, needs, True, tiles)
    taps = corners = boxes = None
    if needs[1] or needs[2]:
        taps = call.query.new_empty((B, V, N, tiles, call.heads, 2, TILE_PIXELS, taps_of_window))
        corners = call.neighbors.new_empty((B, V, N, tiles, TILE_PIXELS, 2), dtype=torch.int32)
        boxes = _empty_boxes(call, _cuda.homography_align_mma_boxes(H, W))
    gradients = _cuda.AlignGradients(**gradient_arguments(grad_out, grad_log_sum, sums))
    with stream_of(call.query) as stream:
        _cuda.homography_align_backward_mma(
            _arguments(packed, None, None, None),
            gradients,
            taps=pointer(taps),
            corners=pointer(corners),
            boxes=pointer(boxes),
            stream=stream,
        )
    return _results(call, sums)


def _arguments(
    packed: AlignCall, out: Tensor | None, peak: Tensor | None, log_sum: Tensor | None
) -> _cuda.AlignArguments:
    return _cuda.AlignArguments(**align_arguments(packed, out, peak, log_sum))


def _packed_call(call: AlignCall) -> AlignCall:
    """The call as kernels can read it: packed images, and the other tensors contiguous."""
    query, key, value = (_packed(t, call.heads) for t in (call.query, call.key, call.value))
    return contiguous(call)._replace(query=query, key=key, value=value)


def _empty_sums(call: AlignCall, needs: tuple[bool, ...], gathers: bool, tiles: int) -> list[Tensor | None]:
    """What the kernels write: packed images, zeroed where they scatter, and one partial sum in float64 per tile."""
    query, key, value, heads = call.query, call.key, call.value, call.heads
    (B, V, C, _, _), (N, R), like = query.shape, (call.neighbors.shape[1], call.window), call.homography
    dtype = query.dtype if gathers else torch.float32
    grad_query = _empty_packed(query, C, heads, query.dtype) if needs[0] else None
    scattered = [
        _empty_packed(t, t.shape[2], heads, dtype, like=query) if need else None
        for t, need in ((key, needs[1]), (value, needs[2]))
    ]
    if not gathers:
        for t in scattered:
            if t is not None:
                t.zero_()
    homography = like.new_zeros((B, V, N, tiles * heads, 3, 3), dtype=torch.float64) if needs[3] else None
    bias = None
    if needs[4] and call.bias is not None:
        bias = like.new_zeros((heads, N, B * V * tiles, R, R), dtype=torch.float64)
    return [grad_query, *scattered, homography, bias]


def _empty_boxes(call: AlignCall, boxes: int) -> Tensor:
    """``(left, top, right, bottom)`` of the source pixels that tiles and their groups touch: none as yet.

    Those of the tiles of all slots lie before those of the groups; a slot has ``boxes`` of both.
    """
    slots = call.query.shape[0] * call.neighbors.numel()
    return call.neighbors.new_full((slots * boxes, 4), -1, dtype=torch.int32)


def _results(call: AlignCall, sums: list[Tensor | None]) -> tuple[Tensor, ...]:
    """The gradients in the shape, dtype and layout of the arguments."""
    *images, homography, bias = sums
    results = [
        like.new_empty((0,)) if grad is None else _in_layout_of(like, grad, call.heads)
        for like, grad in zip((call.query, call.key, call.value), images)
    ]
    grad_homography, grad_bias = (call.homography.new_empty((0,)) for _ in range(2))  # results may not alias
    if homography is not None:
        total = homography.sum(3)
        total = total if call.homography.shape[0] == call.query.shape[0] else total.sum(0, keepdim=True)
        grad_homography = total.to(call.homography.dtype)
    if bias is not None:
        grad_bias = bias.sum(2).to(call.homography.dtype)
    return *results, grad_homography, grad_bias


def _pad(channels: int, heads: int, dtype: torch.dtype) -> int:
    """Channels per head, rounded up to full packs."""
    pack = PACK_BYTES // dtype.itemsize
    return -(-(channels // heads) // pack) * pack


def _is_packed(t: Tensor, heads: int) -> bool:
    """Whether kernels can read ``t (B, V, C, H, W)`` where it lies."""
    pack, (batch, view, channel, y, x) = PACK_BYTES // t.element_size(), t.stride()
    return (
        t.shape[2] == heads * _pad(t.shape[2], heads, t.dtype)
        and (channel == 1 or t.shape[2] <= 1)
        and t.data_ptr() % PACK_BYTES == 0
        and all(stride % pack == 0 for stride in (batch, view, y, x))
        and abs(x) * (t.shape[4] + MARGIN) <= MAX_STEP
    )


def _empty_packed(t: Tensor, channels: int, heads: int, dtype: torch.dtype, like: Tensor | None = None) -> Tensor:
    """A dense, uninitialized ``(B, V, H, W, heads * padded channels)`` seen as ``(B, V, channels, H, W)``.

    Heads are padded as in the dtype of ``like``, or in ``dtype``.
    """
    width = heads * _pad(channels, heads, dtype if like is None else like.dtype)
    return t.new_empty((*t.shape[:2], *t.shape[3:], width), dtype=dtype).movedim(-1, 2)


def _packed(t: Tensor, heads: int) -> Tensor:
    """``t (B, V, C, H, W)`` as kernels can read it: itself, or a copy whose heads are padded with zeros."""
    if _is_packed(t, heads):
        return t
    copy = _empty_packed(t, t.shape[2], heads, t.dtype)
    if copy.shape[2] != t.shape[2]:
        copy.zero_()
    return _copy_heads(copy, t, t.shape[2], heads)


def _copy_heads(to: Tensor, t: Tensor, channels: int, heads: int) -> Tensor:
    """Copy the channels of all heads, which may be padded in one of the two, as they are in a packed image."""
    if to.shape == t.shape:
        return copy_image(to, t)
    _heads(to, channels, heads).copy_(_heads(t, channels, heads))
    return to


def _heads(t: Tensor, channels: int, heads: int) -> Tensor:
    """A view ``(B, V, heads, channels per head, H, W)`` of a tensor that may be padded."""
    split: Tensor = t.unflatten(2, (heads, t.shape[2] // heads))
    return split[:, :, :, : channels // heads]


def _in_layout_of(like: Tensor, grad: Tensor, heads: int) -> Tensor:
    """A packed gradient in the shape, dtype and memory layout of ``like``."""
    result, channels = empty_like_layout(like, like.shape[2]), like.shape[2]
    if grad.dtype == result.dtype and grad.shape == result.shape and grad.stride() == result.stride():
        return grad
    return _copy_heads(result, grad, channels, heads)
