"""Copies between planes and channels last by the CUDA kernels' own transposition; on a GPU, or emulated."""

import importlib

import pytest
import torch

from tests.conftest import cuda_device

pytest.importorskip("vsad._cuda", reason="needs the compiled CUDA kernels")
copy_image = importlib.import_module("vsad.ops.common.cuda_layout").copy_image
SHAPES = [
    (1, 2, 3, 3),
    (2, 3, 40, 9, 11),
    (3, 65, 64, 1),
    (2, 1, 130, 1, 65),
    (5, 7, 13),
    (2, 2, 1, 6, 5),
    (0, 3, 4, 4),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_copies_every_element_in_both_directions(shape, dtype):
    device = cuda_device()
    planes = torch.randn(shape).to(dtype).to(device)
    last = torch.full_like(planes.movedim(-3, -1).contiguous(), float("nan")).movedim(-1, -3)
    assert torch.equal(copy_image(last, planes), planes)
    back = torch.full_like(planes, float("nan"))
    assert torch.equal(copy_image(back, last), planes)


@pytest.mark.parametrize("wrong", ["channels alone", "a view of a batch", "other dtype", "every second column"])
def test_what_it_cannot_read_torch_copies(wrong):
    device = cuda_device()
    large = torch.randn(4, 3, 16, 10, 12).to(device)
    image = {
        "channels alone": large[:, :, 3:9],
        "a view of a batch": large[::2, :2],
        "other dtype": large.to(torch.bfloat16),
        "every second column": large[..., ::2],
    }[wrong]
    to = torch.full_like(image.movedim(2, -1).contiguous(), float("nan"), dtype=torch.float32).movedim(-1, 2)
    assert torch.equal(copy_image(to, image), image.float())
