"""The compiled CUDA kernels (csrc/cuda/module.cpp). Pointers and streams are plain integers; strides count elements."""

from torch import Tensor

# csrc/cuda/module.cpp.
EMULATED: bool
ARCHITECTURES: str

# csrc/common/signature.h.
class Signature:
    def __init__(self, tensor: type[Tensor], parameter: type[Tensor], exchange: object) -> None: ...
    def __call__(self, records: bool, *arguments: object) -> bytes | None: ...

# csrc/cuda/transpose.cu
def transpose(
    from_: int,
    to: int,
    *,
    sizes: tuple[int, int, int],
    from_strides: tuple[int, int],
    to_strides: tuple[int, int],
    element_bytes: int,
    stream: int,
) -> None: ...

# csrc/homography_align: binding.h, cuda/bind.cpp, cuda/forward.cu, cuda/forward_mma.cu, cuda/backward.cu and
# cuda/backward_gather.cu.
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

def homography_align_tiles(H: int, W: int) -> int: ...
def homography_align_boxes(H: int, W: int) -> int: ...
def homography_align_forward(arguments: AlignArguments, stream: int) -> None: ...
def homography_align_backward(
    forward: AlignArguments, gradients: AlignGradients, *, inner: int, boxes: int, stream: int
) -> None: ...
def homography_align_gather(
    forward: AlignArguments, gradients: AlignGradients, *, inner: int, boxes: int, stream: int
) -> None: ...
def homography_align_has_mma_backward(arguments: AlignArguments, grad_out: tuple[int, ...]) -> bool: ...
def homography_align_mma_tiles(H: int, W: int) -> int: ...
def homography_align_mma_boxes(H: int, W: int) -> int: ...
def homography_align_backward_mma(
    forward: AlignArguments, gradients: AlignGradients, *, taps: int, corners: int, boxes: int, stream: int
) -> None: ...

# csrc/homography_warp: binding.h, cuda/bind.cpp, cuda/forward.cu and cuda/backward.cu.
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

class WarpGradients:
    homography: int
    @property
    def parts(self) -> int: ...
    def __init__(self, forward: WarpArguments, *, input: tuple[int, ...], scale: int) -> None: ...

def homography_warp_forward(arguments: WarpArguments, stream: int) -> None: ...
def homography_warp_backward(gradients: WarpGradients, stream: int) -> None: ...

# csrc/greedy_coreset/cuda/bind.cpp and select.cu.
def greedy_coreset_workspace(M: int, C: int, dtype: int) -> int: ...
def greedy_coreset(
    *,
    dtype: int,
    sizes: tuple[int, ...],
    features: tuple[int, ...],
    center: int,
    spread: int,
    picks: int,
    workspace: int,
    stream: int,
) -> None: ...

# csrc/prototype_distance: binding.h, cuda/bind.cpp, cuda/screened_search.cu, cuda/brute_force.cu, cuda/backward.cu and
# cuda/pack.cu.
class DistanceOperands:
    def __init__(self, features: tuple[int, ...], prototypes: tuple[int, ...], k: int, metric: int) -> None: ...
    def placed(self, features: Tensor, prototypes: Tensor) -> DistanceOperands: ...

class DistanceArguments:
    def __init__(self, operands: DistanceOperands, screen: int, formats: tuple[bool, bool]) -> None: ...
    @property
    def bank_bytes(self) -> int: ...
    @property
    def work_bytes(self) -> int: ...
    def placed(self, features: Tensor, prototypes: Tensor, bank: Tensor, work: Tensor | None) -> DistanceArguments: ...

def prototype_distance_choice(sizes: tuple[int, ...], packed: bool) -> tuple[int, tuple[bool, bool]]: ...
def pack_prototypes(arguments: DistanceArguments, stream: int) -> None: ...
def prototype_distance(arguments: DistanceArguments, *, distances: int, indices: int, stream: int) -> None: ...
def prototype_distance_backward(
    operands: DistanceOperands,
    *,
    indices: int,
    grad_distances: int,
    grads: tuple[int, int],
    weights: int,
    pairs: tuple[int, int],
    stream: int,
) -> None: ...
