"""What the suite knows about an operator: inputs, useful operations, compulsory bytes, and how to judge a result.

Every module has ``inputs(case)``, ``flops(case)``, ``bytes(case)`` (read and written), ``result_bytes(case)`` and
``judge(problem)``, and counts what the operator's definition needs, not what somebody's way of doing it spends. A
module's name is its operator's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vsad.bench.cases import Case


class WrongError(Exception):
    """A result that differs from the definition; the message says by how much."""


@dataclass(frozen=True)
class Problem:
    """A case and the tensors to solve it with; ``cotangent`` is the gradient of the output, None for forward only;
    ``module`` is what a case of a whole model runs."""

    case: Case
    tensors: dict[str, Tensor]
    cotangent: Tensor | None = None
    module: nn.Module | None = None


@dataclass(frozen=True)
class Judge:
    """``problem`` is what a peer solves to be judged; ``check(result)`` gives its largest error as a share of the
    budget, and raises WrongError above 1."""

    problem: Problem
    check: Callable[[Any], float]


def of(case: Case) -> Any:
    """The operator's module."""
    return importlib.import_module(f"{__name__}.{case.operator}")


def dtype(case: Case) -> torch.dtype:
    found = getattr(torch, case.dtype)
    assert isinstance(found, torch.dtype)
    return found


def device(case: Case) -> torch.device:
    return torch.device(case.device)


def generator(case: Case) -> torch.Generator:
    """The random generator of the inputs, on the device where they are used."""
    return torch.Generator(device(case)).manual_seed(0)


def image(case: Case, generator: torch.Generator, *shape: int) -> Tensor:
    """Random ``(*, C, H, W)`` in the case's dtype and layout; integers are images of 0 to 255."""
    *batch, C, H, W = shape
    t = torch.randn(*batch, H, W, C, generator=generator, device=generator.device)
    t = (t * 40 + 128).clamp(0, 255) if case.dtype == "uint8" else t
    t = t.to(dtype(case)).movedim(-1, -3)
    return t.contiguous() if case.layout == "contiguous" else t


def homographies(generator: torch.Generator, *batch: int, H: int, W: int) -> Tensor:
    """Slightly turned, scaled and shifted views, as neighboring cameras have; everything lies in front."""
    place = generator.device
    unit = torch.eye(3) + 0.05 * torch.randn(*batch, 3, 3, generator=generator, device=place).cpu()
    unit[..., 2, :2] = 0.06 * (2 * torch.rand(*batch, 2, generator=generator, device=place).cpu() - 1)
    unit[..., 2, 2] = 1
    to_unit = torch.tensor([[2 / W, 0, (1 - W) / W], [0, 2 / H, (1 - H) / H], [0, 0, 1]], dtype=torch.float64)
    return (to_unit.inverse() @ unit.double() @ to_unit).float().to(place)


CROP = 16  # side of the square of output pixels on which a large image's result is judged


@dataclass(frozen=True)
class Crop:
    """A square of output pixels. A homography seen from it is the whole image's after a shift of the origin."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def corner(cls, H: int, W: int) -> Crop:
        """The last one."""
        width, height = min(CROP, W), min(CROP, H)
        return cls(W - width, H - height, width, height)

    @classmethod
    def anywhere(cls, generator: torch.Generator, H: int, W: int) -> Crop:
        last = cls.corner(H, W)
        x, y = (int(torch.randint(n + 1, (), generator=generator)) for n in (last.x, last.y))
        return cls(x, y, last.width, last.height)

    def cut(self, image: Tensor) -> Tensor:
        return image[..., self.y : self.y + self.height, self.x : self.x + self.width]

    def mask(self, image: Tensor) -> Tensor:
        """Zero outside: gradients then depend on the crop alone, and are those of the whole problem nevertheless."""
        masked = torch.zeros_like(image)
        self.cut(masked).copy_(self.cut(image))
        return masked

    def shift(self, homography: Tensor, rounding: float = 0.0) -> Tensor:
        """The homography as the crop's pixels see it, in float64. ``rounding`` moves the points that it leads to.

        Far from the origin plain torch's coordinates are off by about one unit of rounding of the image's size; near
        the crop's own origin they would not be.
        """
        move = torch.tensor([[1, 0, self.x], [0, 1, self.y], [0, 0, 1]], dtype=torch.float64)
        off = torch.tensor([[1, 0, rounding], [0, 1, rounding], [0, 0, 1]], dtype=torch.float64)
        return off.to(homography.device) @ homography.double() @ move.to(homography.device)


def share_of_budget(got: Tensor, plain: Tensor, exact: Tensor) -> float:
    """Error over its budget: twice the error that plain torch makes in this dtype, and rounding.

    Rounding is 50 units of the largest value: what ``|f|^2 - 2 f.p + |p|^2`` in float32 needs.
    """
    if got.shape != exact.shape:
        raise WrongError(f"shape {tuple(got.shape)} in place of {tuple(exact.shape)}")
    if exact.numel() == 0:
        return 0.0
    if not bool(torch.isfinite(got).all()):
        raise WrongError("NaN or infinity where the definition is finite")
    error, own = (float((t.double() - exact).abs().max()) for t in (got, plain))
    unit = torch.finfo(plain.dtype).eps if plain.dtype.is_floating_point else 0.0
    budget = 2 * own + 50 * unit * float(exact.abs().max())
    return error / budget if budget else float(error > 0) * 2


def accept(shares: dict[str, float]) -> float:
    """The largest share, or WrongError with the name of what is off."""
    name, worst = max(shares.items(), key=lambda item: item[1])
    if not worst <= 1:
        raise WrongError(f"{name} is off by {worst:.3g} times the budget")
    return worst
