"""How Triton's launcher takes the arguments of homography_align's kernels; needs no GPU, for it only compiles."""

from contextlib import suppress

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402

from vsad.kernels.common.geometry import INTERPRETED  # noqa: E402
from vsad.ops.homography_align import triton as launcher  # noqa: E402
from vsad.ops.homography_align.call import AlignCall  # noqa: E402

pytestmark = pytest.mark.skipif(bool(INTERPRETED), reason="the interpreter does not compile")


class Hopper:
    """A driver without a device: kernels are compiled for it and never launched."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class Compiled:
    """Stands for a kernel: a launch compiles what it would run, and counts."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.launches += 1
            assert self.kernel.warmup(*arguments, grid=grid, **options).asm["cubin"]

        return launch


@pytest.fixture
def kernels(monkeypatch):
    driver.set_active(Hopper())
    compiled = {name: Compiled(getattr(launcher, name)) for name in ("forward_kernel", "backward_kernel")}
    for name, kernel in compiled.items():
        monkeypatch.setattr(launcher, name, kernel)
    yield compiled
    with suppress(RuntimeError):  # without a GPU there is no driver to return to
        driver.reset_active()


def test_launches_compile_with_and_without_optional_arguments(kernels):
    """Named tuples of arguments, None among them: all gradients and a bias, and two gradients alone."""
    key = torch.ones(1, 2, 5, 4, 8).movedim(-1, 2)
    H, neighbors = torch.eye(3).expand(1, 2, 1, 3, 3), torch.tensor([[1], [0]])
    call = AlignCall(key, key, key, H, neighbors, torch.ones(2, 1, 1, 1), 2, 1, 0.3, deterministic=False)
    outputs = out, _, log_sum = launcher.forward(call)
    every = launcher.backward(call, outputs, (out, log_sum), (True,) * 5)
    assert [tuple(grad.shape) for grad in every] == [tuple(t.shape) for t in (key, key, key, H, call.bias)]
    call = call._replace(query=key.contiguous(), bias=None, deterministic=True)
    some = launcher.backward(call, outputs, (out, None), (False, True, False, True, True))
    assert [grad.numel() > 0 for grad in some] == [False, True, False, True, False]
    assert [kernel.launches for kernel in kernels.values()] == [1, 2]
