"""Tensors of more than 2^31 elements on a GPU: the last slice of a large problem is the small problem of that slice."""

import math

import pytest
import torch

import vsad.ops
from vsad.ops.common.registry import OPERATORS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
BEYOND = 2**31  # elements
BACKENDS = ("cuda", "triton")


@pytest.fixture(params=BACKENDS)
def backend(request):
    yield request.param
    torch.cuda.empty_cache()


def needs(op, backend, tensors):
    """Skip where the backend is missing, or ``tensors`` of BEYOND elements in bfloat16 do not fit."""
    missing = OPERATORS[op].backend(backend).missing
    if missing:
        pytest.skip(missing)
    torch.cuda.empty_cache()
    free, wanted = torch.cuda.mem_get_info()[0], 1.1 * tensors * 2 * BEYOND
    if free < wanted:
        pytest.skip(f"needs {wanted / 1e9:.0f} GB of the GPU's memory, {free / 1e9:.0f} GB are free")


def image(*shape):
    """Random and of more than BEYOND elements, channels last, its batch and views counted from the front."""
    *batch, C, H, W = shape
    assert math.prod(shape) > BEYOND
    generator = torch.Generator("cuda").manual_seed(0)
    return torch.randn(*batch, H, W, C, generator=generator, device="cuda", dtype=torch.bfloat16).movedim(-1, -3)


def turned(*batch):
    H = torch.tensor([[0.99, 0.02, 1.5], [-0.02, 1.01, -0.7], [0, 0, 1]], device="cuda")
    return H.expand(*batch, 3, 3)


def test_homography_warp(backend):
    needs("homography_warp", backend, 3)
    input = image(5, 64, 2592, 2592)
    out = vsad.ops.homography_warp(input, turned(5), backend=backend)
    assert torch.equal(out[-1:], vsad.ops.homography_warp(input[-1:].clone(), turned(1), backend=backend))


def test_homography_warp_of_one_image(backend):
    """Offsets within an image are beyond 2^31 too: the last rows, moved by whole pixels."""
    needs("homography_warp", backend, 3)
    input = image(1, 96, 4800, 4704)
    H = torch.tensor([[1.0, 0, -2], [0, 1, -3], [0, 0, 1]], device="cuda")
    out = vsad.ops.homography_warp(input, H, backend=backend)
    assert torch.equal(out[..., -50:, 2:], input[..., -53:-3, :-2])
    contiguous = input.contiguous()
    del input, out
    out = vsad.ops.homography_warp(contiguous, H, backend=backend)
    assert torch.equal(out[:, -1:, -50:, 2:], contiguous[:, -1:, -53:-3, :-2])


def test_homography_warp_backward(backend):
    needs("homography_warp", backend, 6)  # the fast way adds in float32
    input = image(5, 64, 2592, 2592).requires_grad_()
    out = vsad.ops.homography_warp(input, turned(5), backend=backend)
    (grad,) = torch.autograd.grad(out, input, out.detach())
    last = input.detach()[-1:].clone().requires_grad_()
    small = vsad.ops.homography_warp(last, turned(1), backend=backend)
    (expected,) = torch.autograd.grad(small, last, small.detach())
    torch.testing.assert_close(grad[-1:], expected, rtol=2e-2, atol=2e-2)  # bfloat16, in another order


def test_homography_align(backend):
    needs("homography_align", backend, 5)
    q = image(3, 2, 64, 2368, 2368)
    H = turned(2, 1)
    out, lse = vsad.ops.homography_align(q, q, q, H, heads=2, return_lse=True, backend=backend)
    last = q[-1:].clone()
    small, small_lse = vsad.ops.homography_align(last, last, last, H, heads=2, return_lse=True, backend=backend)
    assert torch.equal(out[-1:], small)
    assert torch.equal(lse[-1:], small_lse)


def test_homography_align_backward(backend):
    needs("homography_align", backend, 12)
    q, k, v = (image(3, 2, 64, 2368, 2368).requires_grad_() for _ in range(3))
    H = turned(2, 1)
    out = vsad.ops.homography_align(q, k, v, H, heads=2, backend=backend)
    grads = torch.autograd.grad(out, (q, k, v), out.detach())
    last = [t.detach()[-1:].clone().requires_grad_() for t in (q, k, v)]
    small = vsad.ops.homography_align(*last, H, heads=2, backend=backend)
    for grad, expected in zip(grads, torch.autograd.grad(small, last, small.detach())):
        torch.testing.assert_close(grad[-1:], expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("many", ["features", "prototypes"])
def test_prototype_distance(backend, many):
    needs("prototype_distance", backend, 4)
    C = 128
    large = image(1, C, 4104, 4104).movedim(1, -1).flatten(0, 2)  # (rows, C), contiguous
    assert large.is_contiguous()
    last = large[-70:]
    if many == "features":
        bank = torch.cat([last[::2] + 0.1, last[1::2] - 0.2])
        got = vsad.ops.prototype_distance(large, bank, 2, backend=backend)
        expected = vsad.ops.prototype_distance(last.clone(), bank, 2, backend=backend)
        assert torch.equal(got.indices[-70:], expected.indices)
        torch.testing.assert_close(got.distances[-70:], expected.distances)
    else:  # every feature is a prototype of the last rows, moved a little
        features = last + 0.01
        got = vsad.ops.prototype_distance(features, large, backend=backend)
        assert got.indices[:, 0].tolist() == list(range(len(large) - 70, len(large)))


def test_greedy_coreset(backend):
    needs("greedy_coreset", backend, 4)
    features = image(1, 128, 4104, 4104).movedim(1, -1).flatten(0, 2)
    rows = len(features)
    features[0] = 0
    for distance, row in ((1000, rows - 1), (500, rows // 2), (250, rows - 2)):
        features[row] = 0
        features[row, distance % 128] = distance
    picks = vsad.ops.greedy_coreset(features, 4, start=0, backend=backend)
    assert picks.tolist() == [0, rows - 1, rows // 2, rows - 2]
