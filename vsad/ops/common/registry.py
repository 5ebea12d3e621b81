"""The contract of every operator: one call, one reference, one schema, and a table of backends, each of which accepts
a call or says why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast, get_type_hints

import torch
from torch import Tensor

from . import preference
from .tensors import UnusableMemoryError

REFERENCE = "torch"
Call = TypeVar("Call", bound=tuple[Any, ...])
Outputs = tuple[Tensor, ...]
Launch = Callable[..., tuple[Any, ...]]  # takes the tensors of a call; gives its outputs
TENSOR_TYPES = (Tensor, Tensor | None)  # of the fields of a call


class Kernels(Protocol):
    """What a backend offers: the launchers of one operator. A module with these functions is one."""

    def forward(self, call: Any, /) -> Outputs:
        """Compute the outputs of a call.

        A module may also have ``prepare(call)``, which gives a ``Launch`` that computes them of the tensors of this
        call, and of every other that differs from it only in the values of its tensors and in where they lie. The
        tensors are those that the public function is given. The launch holds none of them.
        """
        ...


class DifferentiableKernels(Kernels, Protocol):
    """The launchers of an operator that has gradients."""

    def backward(
        self, call: Any, outputs: Outputs, grads: tuple[Tensor | None, ...], needs: tuple[bool, ...], /
    ) -> Outputs:
        """Compute the gradients of a call's differentiable arguments.

        Args:
            call: the call of the forward.
            outputs: the outputs that ``Gradients.saved`` names.
            grads: gradients of the outputs that ``Gradients.outputs`` names; the first is never None.
            needs: by differentiable argument, whether its gradient is wanted.

        Returns:
            The gradient of every differentiable argument, or an empty tensor where ``needs`` says no.
        """
        ...


def never_refuses(call: Any) -> str | None:
    """The ``why_not`` of a backend that takes every call on its devices and in its dtypes."""
    return None


@dataclass(frozen=True)
class Backend(Generic[Call]):
    """One row of an operator's table.

    Args:
        name: what users write in ``backend=``.
        load: imports the launchers when they are first used, and returns them. Each operator writes one small function
            per backend for this, with a plain import statement, so that editors can follow it.
        devices: device types that the first tensor of a call may be on.
        dtypes: dtypes that the first tensor of a call may have.
        missing: why this backend is unusable on this machine; None if it is usable.
        why_not: looks at the shapes and options of a call (never at values) and gives a reason to refuse it, or None.
    """

    name: str
    load: Callable[[], Kernels]
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    missing: str | None = None
    why_not: Callable[[Call], str | None] = never_refuses

    def refusal(self, call: Call) -> str | None:
        """Why this backend cannot take this call; None if it can. Reads metadata only."""
        first = call[0]
        if first.device.type not in self.devices:
            return f"needs tensors on {' or '.join(self.devices)}, got {first.device.type}"
        if first.dtype not in self.dtypes:
            return f"takes {', '.join(str(d)[6:] for d in self.dtypes)}, got {str(first.dtype)[6:]}"
        return self.missing or self.why_not(call)


class Gradients(NamedTuple):
    """How an operator is differentiated.

    Args:
        arguments: names of the arguments that have a gradient, in the order of the call.
        outputs: names of the outputs whose gradient the backward takes; the others are not differentiable.
        saved: names of the outputs that the backward needs.
        empty: makes uninitialized gradients of a call.
        again: computes ``outputs`` once more from a call and what is ``saved``, in plain torch. Derivatives of the
            backward are those of this function.
    """

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    saved: tuple[str, ...]
    empty: Callable[[Any], Outputs]
    again: Callable[[Any, Outputs], Outputs]


@dataclass(frozen=True)
class Operator(Generic[Call]):
    """An operator: its call, its definition in plain torch, and its backends in order of preference.

    Args:
        name: name of the public function.
        call: the NamedTuple of its arguments, tensors first; its annotations are the registered schema.
        check: raises a ValueError, or a TypeError, where the arguments of a call do not fit together.
        batched: names of those arguments whose first dimension is a batch; the outputs begin with the same one.
        outputs: names of the tensors that the launchers return.
        empty: makes uninitialized outputs of a call; the fake of the registered operator.
        reference: the definition in plain torch.
        backends: the table of backends, in order of preference.
        gradients: how it is differentiated; None where it is not.
        opaque_reference: whether compilers see the reference as one call too, because it loops.
    """

    name: str
    call: type[Call]
    check: Callable[[Call], None]
    batched: tuple[str, ...]
    outputs: tuple[str, ...]
    empty: Callable[[Call], Outputs]
    reference: Callable[[Call], Outputs]
    backends: tuple[Backend[Call], ...]
    gradients: Gradients | None = None
    opaque_reference: bool = False

    @cached_property
    def tensors(self) -> int:
        """How many arguments of a call are tensors, or may be; they come first."""
        return sum(hint in TENSOR_TYPES for hint in get_type_hints(self.call).values())

    def choose(self, call: Call, backend: str | None) -> str:
        """The name of the backend that runs this call.

        Without a name it is the first that accepts the call. A backend named by argument or by ``using`` runs the call
        or raises an error.

        Raises:
            ValueError: the name is not in the table.
            RuntimeError: the named backend refuses; the message says why.
        """
        wanted = backend
        for preferred in (preference.traced.backend, preference.backend):
            wanted = preferred if wanted is None else wanted
        if wanted is None:
            for row in self.backends:
                if row.refusal(call) is None:
                    return row.name
            return REFERENCE
        if wanted == REFERENCE:
            return REFERENCE
        reason = self.backend(wanted).refusal(call)
        if reason is not None:
            raise RuntimeError(f"{self.name}: backend {wanted!r} {reason}")
        return wanted

    def forward(self, backend: str) -> Callable[[Call], Outputs]:
        """What computes the outputs of a call on a backend, or the reference."""
        if backend == REFERENCE:
            return self.reference
        return partial(self._launch, self.backend(backend).load().forward)

    def prepare(self, backend: str, call: Call) -> Launch | None:
        """What launches a call, and others like it, on a backend; None where it has to be launched anew each time."""
        prepare = None if backend == REFERENCE else getattr(self.backend(backend).load(), "prepare", None)
        return None if prepare is None else cast(Launch, self._launch(prepare, call))

    def backward(self, backend: str) -> Callable[..., Outputs]:
        """What computes the gradients of a call on a backend, with the arguments of ``DifferentiableKernels``."""
        return partial(self._launch, cast(DifferentiableKernels, self.backend(backend).load()).backward)

    def _launch(self, launcher: Callable[..., Any], *arguments: tuple[Any, ...]) -> Any:
        try:
            return launcher(*arguments)
        except UnusableMemoryError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def split_backward(self, arguments: tuple[Any, ...]) -> tuple[Any, Outputs, tuple[Tensor | None, ...]]:
        """The call, the saved outputs and the gradients that come in, of the registered backward's arguments."""
        fields, saved = len(cast(Any, self.call)._fields), len(self.gradients.saved) if self.gradients else 0
        *tensors, _needs, _backend = arguments
        return self.call(*tensors[:fields]), tuple(tensors[fields : fields + saved]), tuple(tensors[fields + saved :])

    def backend(self, name: str) -> Backend[Call]:
        """The row of that name."""
        for row in self.backends:
            if row.name == name:
                return row
        names = [row.name for row in self.backends] + [REFERENCE]
        raise ValueError(f"{self.name}: backend must be one of {names}, got {name!r}")


OPERATORS: dict[str, Operator[Any]] = {}


def using(backend: str) -> AbstractContextManager[None]:
    """Run every vsad operator inside the block on one backend, as if ``backend=`` were passed to each call.

    It holds for the thread or asyncio task that enters it, and for compiled functions too: they are compiled anew for
    another backend.

    Args:
        backend: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"torch"``.

    Raises:
        ValueError: no operator has a backend of that name.

    Example:
        >>> image, homography = torch.rand(1, 3, 8, 8), torch.eye(3)
        >>> with vsad.ops.using("torch"):
        ...     out = vsad.ops.homography_warp(image, homography)
    """
    known = sorted({REFERENCE, *(row.name for operator in OPERATORS.values() for row in operator.backends)})
    if backend not in known:
        raise ValueError(f"using: backend must be one of {known}, got {backend!r}")
    return preference.prefer(backend)
