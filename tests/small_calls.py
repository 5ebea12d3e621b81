"""A small call of every operator on every backend that runs here, as a function of its leaves."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.samples import SAMPLES, function_of
from tests.test_ops import generator
from vsad.ops.common.registry import OPERATORS, REFERENCE

HERE = {"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"}
TORCH = [pytest.param(op, REFERENCE, id=f"{op.name}-torch") for op in OPERATORS.values()]


def kernels(simulated_too=False):
    """The rows that run here. GPU kernels that are emulated or interpreted take long, and do so with --slow only."""
    for op in OPERATORS.values():
        for row in op.backends:
            if row.missing is None and HERE & set(row.devices):
                slow = row.name in ("cuda", "triton") and "cpu" in row.devices and not simulated_too
                yield pytest.param(op, row.name, id=f"{op.name}-{row.name}", marks=[pytest.mark.slow] if slow else [])


def with_gradients(rows):
    return [row for row in rows if row.values[0].gradients]


KERNELS = list(kernels())
each_row = pytest.mark.parametrize(("operator", "backend"), KERNELS + TORCH)
each_kernel = pytest.mark.parametrize(("operator", "backend"), KERNELS)
each_differentiable = pytest.mark.parametrize(("operator", "backend"), with_gradients(KERNELS))
each_differentiable_even_simulated = pytest.mark.parametrize(("operator", "backend"), with_gradients(kernels(True)))


def device_of(operator, backend):
    """Where a backend's calls run."""
    kernel = backend not in (None, REFERENCE) and "cpu" not in operator.backend(backend).devices
    return "cuda" if kernel else "cpu"


def small_call(operator, backend, dtype=torch.float32, which=0):
    """Leaves that require gradients, the other tensors, and the options of a sample's call."""
    device, sample = device_of(operator, backend), SAMPLES[operator.name][which]
    tensors, options = sample.make(generator())
    tensors = {n: t.to(device, dtype) for n, t in tensors.items()}
    options = {n: t.to(device) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    leaves = {n: tensors.pop(n).requires_grad_() for n in sample.differentiable}
    return leaves, {**tensors, **options}


def outputs(operator, backend, options):
    """The operator as a function of its leaves, with all its tensors as results."""
    if operator.name == "homography_align":
        options = {**options, "return_lse": True}
    if operator.name == "homography_warp":
        options = {**options, "return_mask": True}

    def function(leaves):
        result = function_of(operator)(**leaves, **options, backend=backend)
        return tuple(result) if isinstance(result, tuple) else (result,)

    return function


def loss(operator, backend, options):
    """The sum of squares, which has second derivatives of its own."""
    function = outputs(operator, backend, options)
    return lambda leaves: sum(t.double().square().sum() for t in function(leaves) if t.is_floating_point())


class CallRecorder(TorchDispatchMode):
    """Notes every call of a registered operator of vsad, those of a backward pass too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "vsad":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def assert_close(got, expected, tolerance=1e-4):
    got, expected = (torch.utils._pytree.tree_leaves(t) for t in (got, expected))
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        scale = b.abs().amax().item() if b.numel() and b.is_floating_point() else 0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)
