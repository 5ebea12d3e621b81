"""Launcher of ``csrc/cpu/homography_align.cpp``."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from vsad import _cpu

from ..common.layout import empty_like_layout, in_layout_of
from ..common.tensors import DTYPES, batch_stride, image, pointer
from ..common.threads import threads
from .call import NAME, AlignCall


def forward(call: AlignCall) -> tuple[Tensor, Tensor]:
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, and ``lse (B, V, heads, H, W)``."""
    query, key, value, homography, neighbors, bias, heads, window, scale, _ = call
    B, V, _, H, W = query.shape
    out = empty_like_layout(query, value.shape[2])
    lse = homography.new_empty((B, V, heads, H, W))
    arguments, _keep = _describe(query, key, value, homography, neighbors, bias, out, lse, heads, window, scale)
    _cpu.homography_align_forward(arguments)
    return out, lse


def backward(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no.

    Bit-identical for any number of threads. Needs memory for one dense copy, in the compute dtype, of each image
    gradient, next to the result where dtype or layout differ from that, and of out for the half types.
    """
    query, key, value, homography, neighbors, bias, heads, window, scale, _ = call
    (out, lse), (grad_out, grad_lse) = outputs, grads
    assert grad_out is not None
    B, V, _, H, W = query.shape
    N, Cv = neighbors.shape[1], value.shape[2]
    recompute = out.dtype != homography.dtype
    if recompute:  # <grad_out, out> of a rounded out would cost the logits' gradients their accuracy
        out, lse = homography.new_empty((B, V, H, W, Cv)).movedim(-1, 2), torch.empty_like(lse)
    arguments, _keep = _describe(query, key, value, homography, neighbors, bias, out, lse, heads, window, scale)
    if recompute:
        _cpu.homography_align_forward(arguments)
    grad_lse = None if grad_lse is None else grad_lse.to(lse.dtype).contiguous()
    images = [
        homography.new_zeros((*t.shape[:2], *t.shape[3:], t.shape[2])) if need else None
        for t, need in zip((query, key, value), needs)
    ]
    # summed in double; one part for each piece of work that runs on its own
    homographies = homography.new_zeros((heads, B, V, N, 3, 3), dtype=torch.float64) if needs[3] else None
    biases = None
    if needs[4] and bias is not None:
        biases = homography.new_zeros((B, V, heads, N, window, window), dtype=torch.float64)
    _cpu.homography_align_backward(
        arguments,
        grad_out=image(grad_out),
        grad_lse=pointer(grad_lse),
        query=pointer(images[0]),
        key=pointer(images[1]),
        value=pointer(images[2]),
        homography=pointer(homographies),
        bias=pointer(biases),
        edges=_edges(neighbors),
    )
    nothing = query.new_empty((0,))
    results = [nothing if g is None else in_layout_of(t, g) for t, g in zip((query, key, value), images)]
    if homographies is not None:
        total = _sum_in_order(homographies)
        total = total if homography.shape[0] == B else _sum_in_order(total)[None]
        results.append(total.to(homography.dtype))
    else:
        results.append(homography.new_empty((0,)))
    results.append(
        homography.new_empty((0,)) if biases is None else _sum_in_order(biases.flatten(0, 1)).to(homography.dtype)
    )
    return results[0], results[1], results[2], results[3], results[4]


def _edges(neighbors: Tensor) -> list[tuple[int, int, int]]:
    """All edges ``(target, slot, source)``, those that share neither target nor source beside each other.

    An edge colouring of the bipartite view graph: what neighbouring edges add to never overlaps, so threads that work
    on them do not wait for one another.
    """
    rounds: list[list[tuple[int, int, int]]] = []
    busy: list[set[tuple[str, int]]] = []  # the targets and sources of a round
    for v, row in enumerate(neighbors.tolist()):
        for n, s in enumerate(row):
            if s < 0:
                continue
            ends = {("target", v), ("source", s)}
            at = next((i for i in range(len(rounds)) if not ends & busy[i]), len(rounds))
            if at == len(rounds):
                rounds.append([])
                busy.append(set())
            rounds[at].append((v, n, s))
            busy[at] |= ends
    return [edge for members in rounds for edge in members]


def _sum_in_order(parts: Tensor) -> Tensor:
    """The sum over the first dimension, always in the same order."""
    return reduce(torch.add, parts.unbind(0), parts.new_zeros(parts.shape[1:]))


def _describe(
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
) -> tuple[_cpu.AlignArguments, tuple[Tensor | None, ...]]:
    """The call in numbers, and the dense copies whose memory it points to."""
    B, V, C, H, W = query.shape
    S, Cv, Hs, Ws = value.shape[1:]
    N = neighbors.shape[1]
    if neighbors.numel():
        low, high = (int(t) for t in neighbors.aminmax())
        if low < -1 or high >= S:
            wrong = low if low < -1 else high
            raise ValueError(f"{NAME}: neighbors must lie in [-1, S={S}), got {wrong}; -1 marks an empty slot")
    homography, neighbors = homography.contiguous(), neighbors.contiguous()
    bias = None if bias is None else bias.contiguous()
    operations = B * V * N * H * W * (window + 1) ** 2 * (C + Cv)
    arguments = _cpu.AlignArguments(
        dtype=DTYPES[query.dtype],
        heads=heads,
        window=window,
        threads=threads(operations),
        scale=scale,
        sizes=(B, V, S, N, C, Cv, H, W, Hs, Ws),
        query=image(query),
        key=image(key),
        value=image(value),
        out=image(out),
        wide_out=out.dtype == homography.dtype,
        homography=homography.data_ptr(),
        homography_batch=batch_stride(homography),
        neighbors=neighbors.data_ptr(),
        bias=pointer(bias),
        lse=lse.data_ptr(),
    )
    return arguments, (homography, neighbors, bias)
