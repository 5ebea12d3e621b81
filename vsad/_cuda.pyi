"""The compiled CUDA kernels (csrc/cuda/module.cpp). Pointers and streams are plain integers; strides count elements."""

EMULATED: bool
ARCHITECTURES: str

class WarpArguments:
    def __init__(
        self,
        *,
        dtype: int,
        mode: int,
        padding: int,
        anywhere: float,
        sizes: tuple[int, ...],
        input: tuple[int, ...],
        out: tuple[int, ...],
        homography: int,
        homography_batch: int,
        mask: int,
    ) -> None: ...

class WarpGradients:
    homography: int
    @property
    def parts(self) -> int: ...
    def __init__(self, forward: WarpArguments, *, input: tuple[int, ...], scale: int) -> None: ...

def homography_warp_forward(arguments: WarpArguments, stream: int) -> None: ...
def homography_warp_backward(gradients: WarpGradients, stream: int) -> None: ...
