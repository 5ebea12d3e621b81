"""The arguments of ``WarpArguments`` in ``vsad._cpu`` and ``vsad._cuda``."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from ..common.reference_sampling import coordinate_limit
from ..common.tensors import DTYPES, batch_stride, image, pointer
from .call import MODES, PADDINGS, WarpCall

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
