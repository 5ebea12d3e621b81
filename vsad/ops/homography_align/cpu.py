"""Launcher of the CPU kernels in ``csrc/homography_align/cpu``."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from vsad import _cpu

from ..common.layout import empty_like_layout, in_layout_of
from ..common.registry import Launch
from ..common.threads import threads
from .arguments import align_arguments, contiguous, fitting, gradient_arguments
from .call import AlignCall, check_neighbors, empty_sums


def forward(call: AlignCall) -> tuple[Tensor, ...]:
    """``out (B, V, Cv, H, W)`` in query's dtype and layout, ``peak`` and ``log_sum`` (see ``empty_sums``)."""
    return prepare(call)(*call[:6])


def prepare(call: AlignCall) -> Launch:
    """What launches calls like this one; peak and log_sum on request."""
    out, *sums = empty_like_layout(call.query, call.value.shape[2]), *empty_sums(call)
    arguments = _arguments(contiguous(call), out, *sums)
    layout, shape, fit, sources = (out.shape, out.stride()), sums[0].shape, fitting(call), call.value.shape[1]
    del call, out, sums  # a launch holds no tensors

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
        out, peak, log_sum = query.new_empty_strided(*layout), None, None
        if with_sums:
            peak, log_sum = homography.new_empty(shape), homography.new_empty(shape)
        placed = arguments.placed(query, key, value, homography, neighbors, bias, out, peak, log_sum)
        if not _cpu.homography_align_has_sources(placed):
            check_neighbors(neighbors, sources)  # says which one is wrong
        if _cpu.homography_align_translates(placed):
            _cpu.homography_align_translation(placed)
        else:
            _cpu.homography_align_forward(placed)
        return out, peak, log_sum

    return launch


def backward(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, homography and bias; an empty tensor where ``needs`` says no.

    Bit-identical for any number of threads. The gradient of an image that is not channels last is added up in a copy,
    one of which remains while it is written into its layout; float16 and bfloat16 are added up in float32, and so is
    out, which is also computed anew where all homographies are translations by integers.
    """
    call = _checked(call)
    return _results(call, _sums(call, outputs, grads, needs))


def _sums(
    call: AlignCall, outputs: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients as the kernel adds them up."""
    (out, peak, log_sum), (grad_out, grad_log_sum) = outputs, grads
    assert grad_out is not None
    B, V, _, H, W = call.query.shape
    # <grad_out, out> of a rounded out would cost the logits' gradients their accuracy. So would logits that differ in
    # their last bits: the backward finds those of homography_align_forward again, not of homography_align_translation.
    recompute = out.dtype != call.homography.dtype
    recompute = recompute or _cpu.homography_align_translates(_arguments(call, out, peak, log_sum))
    if recompute:
        out = call.homography.new_empty((B, V, H, W, call.value.shape[2])).movedim(-1, 2)
        peak, log_sum = empty_sums(call)
    # what was saved may come back in another layout, from vmap or from a hook of saved tensors
    peak, log_sum = peak.contiguous(), log_sum.contiguous()
    arguments = _arguments(call, out, peak, log_sum)
    if recompute:
        _cpu.homography_align_forward(arguments)
    grad_log_sum = None if grad_log_sum is None else grad_log_sum.to(log_sum.dtype).contiguous()
    sums = _zeroed_sums(call, needs)
    gradients = _cpu.AlignGradients(**gradient_arguments(grad_out, grad_log_sum, sums))
    _cpu.homography_align_backward(arguments, gradients, _edges(call.neighbors))
    return sums


def _checked(call: AlignCall) -> AlignCall:
    """The call with neighbors that kernels may follow, and with those tensors contiguous that they index as such."""
    check_neighbors(call.neighbors, call.value.shape[1])
    return contiguous(call)


def _arguments(call: AlignCall, out: Tensor, peak: Tensor, log_sum: Tensor) -> _cpu.AlignArguments:
    B, V, C, H, W = call.query.shape
    N, Cv = call.neighbors.shape[1], call.value.shape[2]
    operations = B * V * N * H * W * (call.window + 1) ** 2 * (C + Cv)
    return _cpu.AlignArguments(**align_arguments(call, out, peak, log_sum), threads=threads(operations))


def _zeroed_sums(call: AlignCall, needs: tuple[bool, ...]) -> list[Tensor | None]:
    """What the kernel adds to: dense images, and in float64 one partial sum per work item."""
    (B, V), (N, R), like = call.query.shape[:2], (call.neighbors.shape[1], call.window), call.homography
    images = [
        like.new_zeros((*t.shape[:2], *t.shape[3:], t.shape[2])) if need else None
        for t, need in zip((call.query, call.key, call.value), needs)
    ]
    homography = like.new_zeros((call.heads, B, V, N, 3, 3), dtype=torch.float64) if needs[3] else None
    bias = None
    if needs[4] and call.bias is not None:
        bias = like.new_zeros((B, V, call.heads, N, R, R), dtype=torch.float64)
    return [*images, homography, bias]


def _results(call: AlignCall, sums: list[Tensor | None]) -> tuple[Tensor, ...]:
    """The gradients in the shape, dtype and layout of the arguments. Empties ``sums``: each is freed once converted."""
    results = [
        like.new_empty((0,)) if grad is None else in_layout_of(like, grad)
        for like in (call.query, call.key, call.value)
        for grad in [sums.pop(0)]
    ]
    homography, bias = sums
    grad_homography, grad_bias = (call.homography.new_empty((0,)) for _ in range(2))  # results may not alias
    if homography is not None:
        total = _sum_in_order(homography)
        total = total if call.homography.shape[0] == call.query.shape[0] else _sum_in_order(total)[None]
        grad_homography = total.to(call.homography.dtype)
    if bias is not None:
        grad_bias = _sum_in_order(bias.flatten(0, 1)).to(call.homography.dtype)
    return *results, grad_homography, grad_bias


def _edges(neighbors: Tensor) -> list[tuple[int, int, int]]:
    """All edges ``(target, slot, source)``, those that share neither target nor source beside each other.

    An edge coloring of the bipartite graph of views: the gradients that edges of one color add to never overlap, so
    threads that work on them do not wait for one another.
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
