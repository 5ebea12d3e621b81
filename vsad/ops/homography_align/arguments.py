"""The arguments of ``AlignArguments`` and ``AlignGradients`` in ``vsad._cpu`` and ``vsad._cuda``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from torch import Tensor

from ..common.tensors import DTYPES, batch_stride, image, pointer
from .call import AlignCall

NO_IMAGE = (0, 0, 0, 0, 0, 0)


class Arguments(TypedDict):
    dtype: int
    out_dtype: int
    sizes: tuple[int, ...]
    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    homography: int
    homography_batch: int
    neighbors: int
    bias: int
    heads: int
    window: int
    scale: float
    out: tuple[int, ...]
    peak: int
    log_sum: int


class GradientArguments(TypedDict):
    grad_out: tuple[int, ...]
    grad_log_sum: int
    query: int
    key: int
    value: int
    homography: int
    bias: int


def contiguous(call: AlignCall) -> AlignCall:
    """The call with those tensors contiguous that kernels index as such."""
    return call._replace(
        homography=call.homography.contiguous(),
        neighbors=call.neighbors.contiguous(),
        bias=None if call.bias is None else call.bias.contiguous(),
    )


def fitting(call: AlignCall) -> Callable[..., tuple[Tensor, Tensor, Tensor | None]]:
    """What makes homography, neighbors and bias, as users give them, such as kernels take them in this call."""
    dtype, shape = call.homography.dtype, None if call.bias is None else call.bias.shape

    def fit(homography: Tensor, neighbors: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if homography.dtype != dtype or not homography.is_contiguous():
            homography = homography.to(dtype).contiguous()
        if not neighbors.is_contiguous():
            neighbors = neighbors.contiguous()
        if bias is not None and shape is not None:
            bias = (bias[:, None] if bias.ndim == 3 else bias).expand(shape).to(dtype).contiguous()
        return homography, neighbors, bias

    return fit


def align_arguments(call: AlignCall, out: Tensor | None, peak: Tensor | None, log_sum: Tensor | None) -> Arguments:
    """Pointers, sizes and strides of a call whose homography, neighbors and bias are contiguous.

    ``out``, ``peak`` and ``log_sum`` are None where the kernel computes them anew. The caller keeps the tensors alive:
    only their addresses are in the result.
    """
    B, V, C, H, W = call.query.shape
    S, Cv, Hs, Ws = call.value.shape[1:]
    dtype = DTYPES[call.query.dtype]
    return {
        "dtype": dtype,
        "out_dtype": dtype if out is None else DTYPES[out.dtype],
        "sizes": (B, V, S, call.neighbors.shape[1], C, Cv, H, W, Hs, Ws),
        "query": image(call.query),
        "key": image(call.key),
        "value": image(call.value),
        "homography": pointer(call.homography),
        "homography_batch": batch_stride(call.homography),
        "neighbors": pointer(call.neighbors),
        "bias": pointer(call.bias),
        "heads": call.heads,
        "window": call.window,
        "scale": call.scale,
        "out": NO_IMAGE if out is None else image(out),
        "peak": pointer(peak),
        "log_sum": pointer(log_sum),
    }


def gradient_arguments(
    grad_out: Tensor, grad_log_sum: Tensor | None, sums: Sequence[Tensor | None]
) -> GradientArguments:
    """Pointers and strides of the incoming gradients, and of what a backward adds to; ``grad_log_sum`` is contiguous.

    ``sums`` are those of query, key, value, homography and bias; None for a gradient that is not wanted.
    """
    query, key, value, homography, bias = map(pointer, sums)
    return {
        "grad_out": image(grad_out),
        "grad_log_sum": pointer(grad_log_sum),
        "query": query,
        "key": key,
        "value": value,
        "homography": homography,
        "bias": bias,
    }
