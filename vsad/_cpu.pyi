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
    edges: int,
    rounds: Sequence[int],
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
) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
