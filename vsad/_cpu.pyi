"""The compiled CPU kernels (csrc/cpu/module.cpp). Pointers are plain integers; strides count elements."""

from collections.abc import Sequence

def greedy_coreset(
    *,
    dtype: int,
    threads: int,
    sizes: tuple[int, int, int],
    features: tuple[int, int],
    center: int,
    picks: int,
) -> None: ...

class AlignArguments:
    def __init__(
        self,
        *,
        dtype: int,
        heads: int,
        window: int,
        threads: int,
        scale: float,
        sizes: tuple[int, ...],
        query: tuple[int, ...],
        key: tuple[int, ...],
        value: tuple[int, ...],
        out: tuple[int, ...],
        wide_out: bool,
        homography: int,
        homography_batch: int,
        neighbors: int,
        bias: int,
        lse: int,
    ) -> None: ...

def homography_align_forward(arguments: AlignArguments) -> None: ...
def homography_align_backward(
    forward: AlignArguments,
    *,
    grad_out: tuple[int, ...],
    grad_lse: int,
    query: int,
    key: int,
    value: int,
    homography: int,
    bias: int,
    edges: Sequence[tuple[int, int, int]],
) -> None: ...

class WarpArguments:
    def __init__(
        self,
        *,
        input: tuple[int, ...],
        homography: int,
        homography_batch: int,
        out: tuple[int, ...],
        mask: int,
        sizes: tuple[int, ...],
        mode: int,
        padding: int,
        dtype: int,
        coordinate_limit: float,
        threads: int = ...,
    ) -> None: ...

def homography_warp_forward(arguments: WarpArguments) -> None: ...
def homography_warp_backward(
    forward: WarpArguments, *, input: tuple[int, ...], homography: int, groups: int
) -> None: ...
def prototype_distance(
    *,
    dtype: int,
    metric: int,
    threads: int,
    sizes: tuple[int, int, int, int],
    features: tuple[int, ...],
    prototypes: tuple[int, ...],
    distances: int,
    indices: int,
    center: int,
    packed: int,
) -> None: ...
def prototype_distance_backward(
    *,
    dtype: int,
    metric: int,
    threads: int,
    sizes: tuple[int, int, int, int],
    features: tuple[int, ...],
    prototypes: tuple[int, ...],
    indices: int,
    grad_distances: int,
    grad_features: int,
    grad_prototypes: int,
) -> None: ...
def packed_bytes(P: int, C: int) -> int: ...
def pack_prototypes(
    *,
    dtype: int,
    metric: int,
    threads: int,
    sizes: tuple[int, int],
    prototypes: tuple[int, ...],
    center: int,
    packed: int,
) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
