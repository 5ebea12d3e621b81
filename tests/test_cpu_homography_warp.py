"""What the matrix does not test of the C++ warp: uint8, instruction sets, threads, fenced memory, random shapes."""

import ctypes
import mmap
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samples._sample import homographies
from tests.test_homography_warp import LAYOUTS, WAYS, assert_rounded, random_warp
from vsad.ops import homography_warp
from vsad.ops.homography_warp.call import MODES, WarpCall
from vsad.ops.homography_warp.registration import OPERATOR as OP

_cpu = pytest.importorskip("vsad._cpu", reason="needs the compiled CPU kernels")
from vsad.ops.common import threads as thread_count  # noqa: E402

FORWARD, BACKWARD = torch.ops.vsad.homography_warp_fwd.default, torch.ops.vsad.homography_warp_bwd.default


def everything(image, H, mode, padding):
    """Output, mask and both gradients."""
    call = WarpCall(image, H, *image.shape[2:], mode, padding, deterministic=False)
    out, mask = FORWARD(*call, "cpu")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out, mask, *BACKWARD(*call, grad, [True, True], "cpu")


@pytest.mark.parametrize("layout", ["planes", "pixels", "every other"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 17])
@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_bytes_are_float64_rounded(isa, mode, padding, channels, layout):
    image, H = random_warp(channels, torch.uint8)
    options = {"size": (39, 61), "mode": mode, "padding": padding, "return_mask": True}
    exact, exact_mask = homography_warp(image.double(), H.double(), **options, backend="torch")
    got, mask = homography_warp(LAYOUTS[layout](image), H, **options, backend="cpu")
    assert_rounded(got, exact)
    assert torch.equal(mask, exact_mask)
    if channels > 1:
        assert (got.stride(1) == 1) == (layout == "pixels")


@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_bytes_of_the_reference_are_float64_rounded(mode, padding):
    image, H = random_warp(3, torch.uint8)
    exact = homography_warp(image.double(), H.double(), mode=mode, padding=padding, backend="torch")
    assert_rounded(homography_warp(image, H, mode=mode, padding=padding, backend="torch"), exact)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_bytes_round_ties_to_even_and_saturate(isa, backend):
    ramp = torch.arange(0, 256, dtype=torch.uint8).expand(1, 1, 4, 256).contiguous()
    half = torch.tensor([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]])
    got = homography_warp(ramp, half, (4, 255), backend=backend)[0, 0, 0]
    assert torch.equal(got, (torch.arange(255) + 0.5).round().to(torch.uint8))
    steps = (255 * (torch.arange(256) // 8 % 2)).to(torch.uint8).expand(1, 1, 4, 256).contiguous()
    got = homography_warp(steps, half, (4, 255), mode="bicubic", backend=backend)  # overshoots at every step
    assert set(got.unique().tolist()) <= {0, 128, 127, 255}


def test_bytes_have_no_gradients_and_are_left_alone_by_autocast():
    image, H = random_warp(3, torch.uint8)
    for backend in ("cpu", "torch"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = homography_warp(image, H.requires_grad_(), backend=backend)
        assert out.dtype == torch.uint8
        assert not out.requires_grad


def test_bytes_compile_in_one_graph():
    image, H = random_warp(3, torch.uint8)
    compiled = torch.compile(homography_warp, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(image, H), homography_warp(image, H))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bytes_agree_with_opencv(channels):
    """OpenCV takes the same direction with WARP_INVERSE_MAP; it rounds its weights, in some versions to 1/32 pixel."""
    y, x = np.mgrid[:97, :131]
    image = np.stack([127 + 120 * np.sin(0.1 * x * (c + 1) / 3 + 0.07 * y) for c in range(channels)], -1).astype(
        "uint8"
    )
    H = np.array([[1.11, 0.21, -6.3], [-0.13, 1.07, -4.7], [0.0003, -0.0004, 1.0]])
    ours = homography_warp(torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(H))
    theirs = cv2.warpPerspective(image, H, (131, 97), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    difference = np.abs(ours[0].permute(1, 2, 0).numpy().astype(int) - theirs.reshape(image.shape).astype(int))
    assert difference.max() <= 3
    assert (difference > 1).mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["planes", "pixels"])
@pytest.mark.parametrize("channels", [3, 70])
def test_the_number_of_threads_changes_nothing(isa, threads, monkeypatch, channels, layout, dtype):
    monkeypatch.setattr(thread_count, "OPERATIONS_PER_THREAD", 1)  # however small the image
    image, H = random_warp(channels, dtype, size=(60, 70))
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(everything(LAYOUTS[layout](image), H, "bilinear", "reflection"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize(("mode", "padding"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
def test_instruction_sets_agree(isa, dtype, mode, padding):
    image, H = random_warp(17, dtype)
    H = H.double() if dtype == torch.float64 else H
    run = everything if dtype != torch.uint8 else lambda *way: homography_warp(*way[:2], mode=way[2], padding=way[3])
    got = run(LAYOUTS["pixels"](image), H, mode, padding)
    _cpu.set_isa("baseline")
    expected = run(image, H, mode, padding)
    for a, b in zip(got, expected):
        tolerance = 1 if dtype == torch.uint8 else 1e-4 * b.abs().max().item() if b.is_floating_point() else 0
        torch.testing.assert_close(a, b, rtol=2e-3 if dtype == torch.float16 else 1e-5, atol=tolerance)


class Fenced:
    """Memory between two pages that must not be touched: an array ends at the second, and one begins at the first."""

    def __init__(self, count, dtype):
        size = mmap.PAGESIZE
        inner = -(-count * dtype.itemsize // size) * size
        self.map = mmap.mmap(-1, inner + 2 * size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        assert mprotect(address, size, 0) == 0
        assert mprotect(address + size + inner, size, 0) == 0
        offsets = size, size + inner - count * dtype.itemsize
        self.begin, self.end = (torch.frombuffer(self.map, dtype=dtype, count=count, offset=o) for o in offsets)


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect as Linux has it")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_no_byte_outside_the_image_is_touched(isa, dtype, channels, mode):
    """A wrong read or write is a segmentation fault here."""
    height, width = 19, 37
    image, _ = random_warp(channels, dtype, 1, (height, width))
    for shift in (-1.25, -0.4, 0, 0.25, 1.4):
        H = torch.tensor([[1.0, 0, shift], [0, 1, shift], [0, 0, 1]])
        expected = homography_warp(image, H, mode=mode, backend="torch")
        for pixels in (False, True):
            fence = Fenced(image.numel(), dtype)
            for memory in (fence.begin, fence.end):
                shape = (1, height, width, channels) if pixels else (1, channels, height, width)
                placed = memory.view(shape)
                placed = placed.permute(0, 3, 1, 2) if pixels else placed
                got = homography_warp(placed.copy_(image), H, mode=mode, backend="cpu")
                torch.testing.assert_close(got, expected, rtol=1e-2, atol=1 if dtype == torch.uint8 else 2e-2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs memory that costs nothing until it is touched")
@pytest.mark.parametrize("channels_apart", [False, True])
def test_offsets_beyond_32_bits(isa, channels_apart):
    """Rows that lie 2^30 elements apart, in memory of which a few pages are touched."""
    rows, width, apart = 5, 40, 1 << 30
    memory = torch.empty(rows * apart, dtype=torch.uint8)
    strides = (0, 50, apart, 1) if channels_apart else (0, 1, apart, 6)
    far = memory.as_strided((1, 6, rows, width), strides)
    near = torch.randint(0, 256, (1, 6, rows, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    far.copy_(near)
    H = torch.tensor([[0.9, 0.1, 0.3], [0.02, 0.8, 0.4], [0, 0.001, 1]])
    for mode in MODES:
        assert torch.equal(homography_warp(far, H, mode=mode), homography_warp(near, H, mode=mode))


@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_gradients_are_those_of_finite_differences(isa, mode, padding):
    image, H = (t.double() for t in random_warp(3, batch=1, size=(6, 7)))
    leaves = [image.requires_grad_(), H.requires_grad_(mode != "nearest")]

    def warp(image, H):
        return homography_warp(image, H, (5, 9), mode=mode, padding=padding, backend="cpu")

    assert torch.autograd.gradcheck(warp, leaves, fast_mode=True, nondet_tol=0)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_random_shapes_match_the_reference(data):
    sizes = st.integers(1, 40)
    B, C, height, width = (data.draw(st.integers(*r)) for r in ((1, 3), (1, 36), (1, 40), (1, 40)))
    size, seed = (data.draw(sizes), data.draw(sizes)), data.draw(st.integers(0, 2**31))
    mode, padding = data.draw(st.sampled_from(WAYS))
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(B, C, height, width, generator=g, dtype=torch.float64)
    H = homographies(g, (B,), size, (height, width), data.draw(st.sampled_from([0.0, 0.3, 1.5])))
    if mode == "nearest":
        H = H + 1e-7  # affine maps between small images land on ties
    results = []
    for backend in ("cpu", "torch"):
        leaves = [LAYOUTS[layout](image).detach().requires_grad_(), H.clone().requires_grad_()]
        out, mask = homography_warp(*leaves, size, mode=mode, padding=padding, return_mask=True, backend=backend)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
        results.append((out, mask, *torch.autograd.grad(out, leaves, grad, allow_unused=True)))
    for ours, theirs in zip(*results):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        scale = theirs.abs().max().item() if theirs.is_floating_point() else 0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * max(scale, 1))


def test_the_backward_schema_passes_opcheck():
    image, H = random_warp(4)
    grad = torch.randn(2, 4, 9, 8)
    for needs in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(BACKWARD, (image, H, 9, 8, "bilinear", "zeros", False, grad, needs, "cpu"))


def test_the_row_comes_first():
    assert OP.choose(WarpCall(*random_warp(), 4, 4, "bicubic", "border", deterministic=False), None) == "cpu"
