"""The arguments of ``WarpArguments`` in ``vsad._cpu`` and ``vsad._cuda``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..common.reference_sampling import coordinate_limit
from ..common.registry import Launch
from ..common.tensors import DTYPES, batch_stride, image, pointer
from .call import MODES, PADDINGS, WarpCall, empty

NO_IMAGE = (0, 0, 0, 0, 0)


class Arguments(TypedDict):
    input: tuple[int, ...]
    homography: int
    homography_batch: int
    out: tuple[int, ...]
    mask: int
    sizes: tuple[int, ...]
    mode: int
    padding: int
    dtype: int
    coordinate_limit: float


def warp_arguments(call: WarpCall, homography: Tensor, out: Tensor, mask: Tensor | None) -> Arguments:
    """Numbers of a call whose homography is contiguous; ``out`` is the gradient that comes in, in the backward.

    The caller keeps the tensors alive: only their addresses are in it.
    """
    B, C, Hs, Ws = call.input.shape
    return {
        "input": image(call.input),
        "homography": pointer(homography),
        "homography_batch": batch_stride(homography),
        "out": image(out),
        "mask": pointer(mask),
        "sizes": (B, C, *call.size, Hs, Ws),
        "mode": MODES.index(call.mode),
        "padding": PADDINGS.index(call.padding),
        "dtype": DTYPES[call.input.dtype],
        "coordinate_limit": coordinate_limit(homography.dtype, (Hs, Ws)),
    }


def prepared(
    call: WarpCall, arguments: Callable[[Tensor, Tensor, Tensor], Any], run: Callable[[Any, Tensor], None]
) -> Launch:
    """What launches calls like this one; the mask on request.

    Args:
        call: a checked call.
        arguments: makes the kernel's ``WarpArguments`` of a contiguous homography, ``out`` and mask.
        run: runs the kernel with such arguments, on the device of the input.
    """
    homography, out, mask = call.homography.contiguous(), *empty(call)
    made = arguments(homography, out, mask)
    layout, shape, dtype = (out.shape, out.stride()), mask.shape, homography.dtype

    def launch(input: Tensor, homography: Tensor, with_mask: bool = True) -> tuple[Tensor | None, ...]:
        homography = homography.to(dtype).contiguous()
        out = input.new_empty_strided(*layout)
        mask = input.new_empty(shape, dtype=torch.bool) if with_mask else None
        run(made.placed(input, homography, out, mask), input)
        return out, mask

    return launch  # which holds none of the call's tensors
