from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Make = Callable[[torch.Generator], tuple[dict[str, Tensor], dict[str, object]]]


@dataclass(frozen=True)
class Sample:
    """Inputs of one call.

    Args:
        id: names the sample in the tests' ids.
        make: gives float64 tensors by argument name, and the options of the call, from a generator.
        differentiable: the arguments that have a gradient.
        images: the arguments that every memory layout is tried on.
        smooth: twice differentiable there, and small enough for finite differences: no coordinate lies on the center
            of a pixel or near a horizon, no distances tie.
        large: takes minutes where GPU kernels are emulated or interpreted.
    """

    id: str
    make: Make
    differentiable: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    smooth: bool = False
    large: bool = False


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def homographies(
    generator: torch.Generator,
    batch: tuple[int, ...],
    target: tuple[int, int],
    source: tuple[int, int],
    perspective: float = 0.1,
    mirrored: bool = False,
) -> Tensor:
    """Random homographies that roughly cover the source; ``perspective`` 1.5 puts a horizon through the target."""
    (h, w), (hs, ws) = (max(n, 1) for n in target), source
    unit = torch.eye(3, dtype=torch.float64) + 0.15 * randn(generator, *batch, 3, 3)
    unit[..., 2, 2] = 1
    unit[..., 2, :2] = perspective * (2 * torch.rand(*batch, 2, generator=generator, dtype=torch.float64) - 1)
    if mirrored:
        unit[..., :, 0] *= -1
    to_unit = torch.tensor([[2 / w, 0, (1 - w) / w], [0, 2 / h, (1 - h) / h], [0, 0, 1]], dtype=torch.float64)
    from_unit = torch.tensor([[ws / 2, 0, (ws - 1) / 2], [0, hs / 2, (hs - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    return from_unit @ unit @ to_unit
