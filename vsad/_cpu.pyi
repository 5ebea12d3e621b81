"""The compiled CPU kernels (csrc/cpu/module.cpp). Pointers are plain integers; strides count elements."""

from collections.abc import Sequence

from torch import Tensor

# csrc/common/signature.h.
class Signature:
    def __init__(self, tensor: type[Tensor], parameter: type[Tensor], exchange: object) -> None: ...
    def __call__(self, records: bool, *arguments: object) -> bytes | None: ...

# csrc/greedy_coreset/cpu/bind.cpp and select.cpp.
def greedy_coreset(
    *,
    dtype: int,
    threads: int,
    sizes: tuple[int, int, int],
    features: tuple[int, int],
    center: int,
    picks: int,
) -> None: ...

# csrc/homography_align: binding.h, cpu/bind.h, cpu/forward.cpp, cpu/translation.cpp and cpu/backward.cpp.
class AlignArguments:
    def __init__(
        self,
        *,
        dtype: int,
        out_dtype: int,
        sizes: tuple[int, ...],
        query: tuple[int, ...],
        key: tuple[int, ...],
        value: tuple[int, ...],
        homography: int,
        homography_batch: int,
        neighbors: int,
        bias: int,
        heads: int,
        window: int,
        scale: float,
        out: tuple[int, ...],
        peak: int,
        log_sum: int,
        threads: int = 1,
    ) -> None: ...
    def placed(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        homography: Tensor,
        neighbors: Tensor,
        bias: Tensor | None,
        out: Tensor,
        peak: Tensor | None,
        log_sum: Tensor | None,
    ) -> AlignArguments: ...

class AlignGradients:
    def __init__(
        self,
        *,
        grad_out: tuple[int, ...],
        grad_log_sum: int,
        query: int,
        key: int,
        value: int,
        homography: int,
        bias: int,
    ) -> None: ...

def homography_align_forward(arguments: AlignArguments) -> None: ...
def homography_align_has_sources(arguments: AlignArguments) -> bool: ...
def homography_align_translates(arguments: AlignArguments) -> bool: ...
def homography_align_translation(arguments: AlignArguments) -> None: ...
def homography_align_backward(
    forward: AlignArguments, gradients: AlignGradients, edges: Sequence[tuple[int, int, int]]
) -> None: ...

# csrc/homography_warp: binding.h, cpu/bind.cpp, cpu/forward.cpp and cpu/backward.cpp.
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
    def placed(self, input: Tensor, homography: Tensor, out: Tensor, mask: Tensor | None) -> WarpArguments: ...

def homography_warp_forward(arguments: WarpArguments) -> None: ...
def homography_warp_backward(
    forward: WarpArguments, *, input: tuple[int, ...], homography: int, groups: int
) -> None: ...

# csrc/prototype_distance: binding.h, cpu/bind.cpp, cpu/screened_search.cpp, cpu/brute_force.cpp, cpu/backward.cpp and
# cpu/pack.cpp.
class DistanceOperands:
    def __init__(self, features: tuple[int, ...], prototypes: tuple[int, ...], k: int, metric: int) -> None: ...
    def placed(self, features: Tensor, prototypes: Tensor) -> DistanceOperands: ...

def prototype_distance(
    operands: DistanceOperands, *, packed: int, center: int, distances: int, indices: int, threads: int
) -> None: ...
def prototype_distance_backward(
    operands: DistanceOperands, *, indices: int, grad_distances: int, grads: tuple[int, int], threads: int
) -> None: ...
def prototype_distance_packs(operands: DistanceOperands) -> bool: ...
def packed_bytes(P: int, C: int) -> int: ...
def pack_prototypes(operands: DistanceOperands, *, packed: int, center: int, threads: int) -> None: ...

# csrc/cpu/module.cpp.
def isa() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
