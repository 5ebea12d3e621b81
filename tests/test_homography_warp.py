"""What homography_warp's backends promise beyond the matrix of test_ops.py: uint8, and deterministic gradients."""

import pytest
import torch

from tests.samples._sample import homographies
from tests.simulated import in_turn
from tests.test_ops import run, within_budget
from vsad.ops import homography_warp
from vsad.ops.homography_warp.call import MODES, PADDINGS
from vsad.ops.homography_warp.registration import OPERATOR as OP

LAYOUTS = {
    "planes": lambda t: t,
    "pixels": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "every other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
}
WAYS = [(mode, padding) for mode in MODES for padding in PADDINGS]
# kernels have separate code for planes, pixels and packs of channels; the C++ kernels have tests of their own
FORMS = [(1, "planes"), (3, "pixels"), (3, "every other"), (16, "pixels"), (5, "planes")]
SUMMED = [(8, "pixels"), (3, "pixels"), (3, "planes")]


def random_warp(channels=3, dtype=torch.float32, batch=2, size=(45, 53)):
    g = torch.Generator().manual_seed(channels)
    if dtype == torch.uint8:
        image = torch.randint(0, 256, (batch, channels, *size), generator=g, dtype=dtype)
    else:
        image = torch.randn(batch, channels, *size, generator=g).to(dtype)
    return image, homographies(g, (batch,), size, size, 0.3).float()


def assert_rounded(got, exact):
    """Rounded to nearest, ties to even; within a fiftieth of a tie, the error of float32 coordinates may decide."""
    assert got.dtype == torch.uint8
    exact = exact.clamp(0, 255)
    clear = ((exact % 1) - 0.5).abs() > 0.02
    assert torch.equal(got[clear].double(), exact[clear].round())
    assert (got - exact).abs().max() <= 0.52


@pytest.fixture(params=["cuda", "triton"])
def row(request):
    """A GPU backend and its device here: a GPU, or the CPU that emulates one."""
    found = OP.backend(request.param)
    device = found.devices[0]
    if found.missing is not None or (device == "cuda" and not torch.cuda.is_available()):
        pytest.skip(found.missing or "needs a GPU")
    return request.param, device


@pytest.fixture
def repeatable():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("mode", "padding", "channels", "layout"), in_turn(WAYS, FORMS))
def test_bytes_are_float64_rounded(row, mode, padding, channels, layout):
    backend, device = row
    size, target = ((18, 23), (21, 26)) if device == "cpu" else ((45, 53), (39, 61))
    image, H = random_warp(channels, torch.uint8, size=size)
    options = {"size": target, "mode": mode, "padding": padding, "return_mask": True}
    exact, exact_mask = homography_warp(image.double(), H.double(), **options, backend="torch")
    got, mask = homography_warp(LAYOUTS[layout](image.to(device)), H.to(device), **options, backend=backend)
    assert_rounded(got.cpu(), exact)
    assert torch.equal(mask.cpu(), exact_mask)
    if channels > 1:
        assert (got.stride(1) == 1) == (layout == "pixels")


@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_bytes_round_ties_to_even_and_saturate(row, layout):
    backend, device = row
    channels = 16 if layout == "pixels" else 3  # 16 bytes fill a pack
    ramp = torch.arange(0, 256, dtype=torch.uint8).expand(1, channels, 4, 256)
    half = torch.tensor([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]], device=device)
    got = homography_warp(LAYOUTS[layout](ramp.contiguous().to(device)), half, (4, 255), backend=backend).cpu()
    assert torch.equal(got, (torch.arange(255) + 0.5).round().to(torch.uint8).expand_as(got))
    steps = (255 * (torch.arange(256) // 8 % 2)).to(torch.uint8).expand_as(ramp).contiguous().to(device)
    got = homography_warp(LAYOUTS[layout](steps), half, (4, 255), mode="bicubic", backend=backend)
    assert set(got.unique().tolist()) <= {0, 128, 127, 255}  # overshoots at every step


def test_bytes_have_no_gradients_and_are_left_alone_by_autocast(row):
    backend, device = row
    image, H = (t.to(device) for t in random_warp(3, torch.uint8))
    with torch.autocast(device, dtype=torch.bfloat16):
        out = homography_warp(image, H.requires_grad_(), backend=backend)
    assert out.dtype == torch.uint8
    assert not out.requires_grad


@pytest.mark.parametrize(
    ("mode", "padding", "channels", "layout"),
    in_turn([("bilinear", "zeros"), ("bicubic", "border"), ("nearest", "reflection")], SUMMED),
)
def test_repeatable_gradients_are_right(row, mode, padding, channels, layout):
    """Fixed-point sums stay within the error budget of float sums."""
    backend, device = row
    options = {"size": (21, 26), "mode": mode, "padding": padding}
    image, H = random_warp(channels, size=(18, 23))
    tensors = {"input": LAYOUTS[layout](image), "homography": H}
    wide = {n: t.double() for n, t in tensors.items()}
    _, _, exact = run(homography_warp, wide, {**options, "backend": "torch"}, ("input",))
    _, _, plain = run(homography_warp, tensors, {**options, "backend": "torch"}, ("input",))
    here = {n: t.to(device) for n, t in tensors.items()}
    options = {**options, "backend": backend, "deterministic": True}
    _, _, grads = run(homography_warp, here, options, ("input", "homography"))
    within_budget("grad_input", grads["input"].cpu(), exact["input"], plain["input"], torch.float32)


@pytest.mark.parametrize(("mode", "channels", "layout"), in_turn([(mode,) for mode in MODES], SUMMED))
def test_repeatable_gradients_do_not_depend_on_tiles(row, repeatable, monkeypatch, mode, channels, layout):
    """Other tiles add in another order, and fixed-point sums have the same bits."""
    backend, device = row
    if backend != "triton":
        pytest.skip("has only one tile size")
    kernels = pytest.importorskip("vsad.kernels.homography_warp.launch_shapes")
    image, H = random_warp(channels, size=(18, 23) if device == "cuda" else (12, 13))
    H = H @ torch.diag(torch.tensor([0.3, 0.3, 1.0]))  # many pixels to a source pixel
    tensors = {"input": LAYOUTS[layout](image.to(device)), "homography": H.to(device)}
    target = (21, 26) if device == "cuda" else (15, 17)
    options = {"size": target, "mode": mode, "padding": "border", "backend": backend}
    before, wanted = {}, ("input",)
    for planes, last in ((kernels.PLANES, kernels.CHANNELS_LAST), ((8, 4), (4, 2, 16))):
        monkeypatch.setattr(kernels, "PLANES", planes)
        monkeypatch.setattr(kernels, "CHANNELS_LAST", last)
        _, _, grads = run(homography_warp, tensors, options, wanted)
        before = before or grads
        assert torch.equal(grads["input"], before["input"])
    assert grads["input"].abs().sum() > 0
