"""Launcher of ``csrc/cuda/homography_align*.cu``.

The kernels read channels-last tensors whose heads are whole packs of 16 bytes. A tensor that is not is copied once,
heads padded with zeros: that moves each of its bytes twice, while the kernels read every pixel (R + 1)^2 times a slot
and would need 4 or 8 times as many loads for it, one for each channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vsad import _cuda

from ..common.layout import empty_like_layout
from ..common.stream import stream_of
from ..common.tensors import DTYPES, batch_stride, pointer
from .call import AlignCall

PACK_BYTES = 16
MAX_STEP, MARGIN = 2**31 - 1, 8  # elements that a row of a source view and a window beside it may span
NOWHERE = (0, 0, 0, 0, 0)


def forward(call: AlignCall) -> tuple[Tensor, Tensor]:
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, and ``lse (B, V, heads, H, W)``."""
    query, key, value, homography, neighbors, bias, heads, window, scale, _ = call
    B, V, _, H, W = query.shape
    result = empty_like_layout(query, value.shape[2])
    out = result if _is_packed(result, heads) else _empty_packed(query, value.shape[2], heads, query.dtype)
    lse = homography.new_empty((B, V, heads, H, W))
    description = _Call(query, key, value, homography, neighbors, bias, out, lse, heads, window, scale)
    with stream_of(query) as stream:
        _cuda.homography_align_forward(description.arguments, stream)
    if out is not result:
        _heads(result, value.shape[2], heads).copy_(_heads(out, value.shape[2], heads))
    return result, lse


def backward(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no.

    The gradients of key and value are added up atomically in float32, for which the half types need a copy of that
    size; their last bits differ from run to run. ``deterministic`` gathers them instead.
    """
    query, key, value, homography, neighbors, bias, heads, window, scale, deterministic = call
    (out, lse), (grad_out, grad_lse) = outputs, grads
    assert grad_out is not None
    B, V, C, H, W = query.shape
    Cv = value.shape[2]
    N, tiles = neighbors.shape[1], _cuda.homography_align_tiles(H, W)
    gather = deterministic and (needs[1] or needs[2])
    # <grad_out, out> of a rounded out would cost the logits' gradients their accuracy: the kernel finds it again
    exact = out if out.dtype == torch.float32 else None
    description = _Call(query, key, value, homography, neighbors, bias, exact, lse, heads, window, scale)
    grad_lse = None if grad_lse is None else grad_lse.float().contiguous()
    grad_out = _packed(grad_out, heads)
    sums = query.dtype if gather else torch.float32
    grad_query = _empty_packed(query, C, heads, query.dtype) if needs[0] else None
    grad_key = _empty_packed(key, C, heads, sums, like=query) if needs[1] else None
    grad_value = _empty_packed(value, Cv, heads, sums, like=query) if needs[2] else None
    homographies = biases = inner = boxes = None
    if needs[3]:
        homographies = homography.new_zeros((B, V, N, tiles * heads, 3, 3), dtype=torch.float64)
    if needs[4] and bias is not None:
        biases = homography.new_zeros((heads, N, B * V * tiles, window, window), dtype=torch.float64)
    if gather:
        inner = torch.empty_like(lse)
        boxes = neighbors.new_full((B, V, N, tiles, 4), -1, dtype=torch.int32)
        boxes[..., :2] = 0
    else:
        for t in (grad_key, grad_value):
            if t is not None:
                t.zero_()
    gradients = _cuda.AlignGradients(
        description.arguments,
        grad_out=_image(grad_out),
        grad_lse=pointer(grad_lse),
        query=pointer(grad_query),
        key=pointer(grad_key),
        value=pointer(grad_value),
        homography=pointer(homographies),
        bias=pointer(biases),
        inner=pointer(inner),
        boxes=pointer(boxes),
    )
    with stream_of(query) as stream:
        _cuda.homography_align_backward(gradients, stream)
        if gather:
            _cuda.homography_align_gather(gradients, stream)
    nothing = query.new_empty((0,))
    results = [
        nothing if g is None else _in_layout_of(t, g, heads)
        for t, g in ((query, grad_query), (key, grad_key), (value, grad_value))
    ]
    if homographies is None:
        results.append(homography.new_empty((0,)))
    else:
        total = homographies.sum(3)
        results.append((total if homography.shape[0] == B else total.sum(0, keepdim=True)).to(homography.dtype))
    results.append(homography.new_empty((0,)) if biases is None else biases.sum(2).to(homography.dtype))
    return results[0], results[1], results[2], results[3], results[4]


def _pad(channels: int, heads: int, dtype: torch.dtype) -> int:
    """Channels of a head, filled up to whole packs."""
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
    """A dense, uninitialised ``(B, V, H, W, heads * padded channels)`` seen as ``(B, V, channels, H, W)``.

    Heads are as wide as in the dtype of ``like``, or in ``dtype``.
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
    _heads(copy, t.shape[2], heads).copy_(_heads(t, t.shape[2], heads))
    return copy


def _heads(t: Tensor, channels: int, heads: int) -> Tensor:
    """A view ``(B, V, heads, channels of a head, H, W)`` of a tensor that may be padded."""
    split: Tensor = t.unflatten(2, (heads, t.shape[2] // heads))
    return split[:, :, :, : channels // heads]


def _in_layout_of(like: Tensor, grad: Tensor, heads: int) -> Tensor:
    """A packed gradient as that of ``like``: its shape, dtype and memory layout."""
    result, channels = empty_like_layout(like, like.shape[2]), like.shape[2]
    if grad.dtype == result.dtype and grad.shape == result.shape and grad.stride() == result.stride():
        return grad
    _heads(result, channels, heads).copy_(_heads(grad, channels, heads))
    return result


def _image(t: Tensor | None) -> tuple[int, ...]:
    """Where packed channels lie: the pointer, and the strides of batch, view, y and x."""
    if t is None:
        return NOWHERE
    batch, view, _, y, x = t.stride()
    return (t.data_ptr(), batch, view, y, x)


class _Call:
    """The call in numbers, and the tensors whose memory it points to."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        homography: Tensor,
        neighbors: Tensor,
        bias: Tensor | None,
        out: Tensor | None,
        lse: Tensor,
        heads: int,
        window: int,
        scale: float,
    ) -> None:
        (B, V, C, H, W), (S, Cv, Hs, Ws) = query.shape, value.shape[1:]
        pack = PACK_BYTES // query.element_size()
        packed = [_packed(t, heads) for t in (query, key, value)]
        homography, neighbors = homography.contiguous(), neighbors.contiguous()
        bias = None if bias is None else bias.contiguous()
        out = None if out is None else _packed(out, heads)
        self.keep = (*packed, homography, neighbors, bias, out)
        self.arguments = _cuda.AlignArguments(
            dtype=DTYPES[query.dtype],
            heads=heads,
            window=window,
            scale=scale,
            sizes=(B, V, S, neighbors.shape[1], H, W, Hs, Ws),
            packs=(_pad(C, heads, query.dtype) // pack, _pad(Cv, heads, query.dtype) // pack),
            query=_image(packed[0]),
            key=_image(packed[1]),
            value=_image(packed[2]),
            out=_image(out),
            homography=homography.data_ptr(),
            homography_batch=batch_stride(homography),
            neighbors=neighbors.data_ptr(),
            bias=pointer(bias),
            lse=lse.data_ptr(),
        )
