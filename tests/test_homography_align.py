"""What every backend of homography_align promises beyond the matrix of test_ops.py: large logits; and its reference."""

import functools
import itertools

import pytest
import torch

from tests.test_ops import run
from vsad.ops import homography_align
from vsad.ops.homography_align.call import AlignCall
from vsad.ops.homography_align.reference import reference
from vsad.ops.homography_align.registration import OPERATOR as OP
from vsad.ops.homography_align.registration import run as run_operator

HERE = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
LEAST = torch.finfo(torch.float32).min
HALF = (torch.float16, torch.bfloat16)
# channels of a head, heads, window: the second for tensor cores, the third for rows that a GPU deals to more threads
SIZES = {"narrow": (12, 2, 3), "tensor cores": (32, 2, 3), "wide": (70, 1, 3)}


def on_every_row(*values):
    """Each value on every row that runs here, dtype and size.

    Where GPU kernels are emulated or interpreted, only ``--slow`` tries a value on more than one dtype and size of a
    row.
    """
    kinds = [(torch.float32, "narrow"), (torch.float32, "wide"), *((dtype, "tensor cores") for dtype in HALF)]
    for i, (value, row) in enumerate(itertools.product(values, OP.backends)):
        here = pytest.mark.skipif(row.missing is not None, reason=str(row.missing))
        for device in sorted(set(HERE) & set(row.devices)):
            for j, (dtype, size) in enumerate(kinds):
                slow = simulated(row.name, device) and j != i // len(OP.backends) % len(kinds)
                name = f"{OP.name}-{row.name}-{device}-{str(dtype)[6:]}-{size}-{value}"
                marks = [here, pytest.mark.slow] if slow else [here]
                yield pytest.param(row.name, device, dtype, size, value, id=name, marks=marks)


def simulated(backend, device):
    return device == "cpu" and backend in ("cuda", "triton")


def features(mean, dtype, size, device, seed=0):
    """A call whose logits lie around mean^2 sqrt(C) and differ by a few."""
    C, heads, window = SIZES[size]
    g = torch.Generator().manual_seed(seed)
    images = [torch.randn(1, views, 9, 8, heads * C, generator=g).movedim(-1, 2) for views in (1, 2, 2)]
    spread = 2 / max(mean, 2)
    H = torch.eye(3).repeat(1, 1, 2, 1, 1)
    H[..., :2, :2] += 0.02 * torch.randn(1, 1, 2, 2, 2, generator=g)
    H[..., :2, 2] = 2 * torch.rand(1, 1, 2, 2, generator=g)
    tensors = {
        "query": (images[0] + mean).to(dtype),
        "key": (images[1] * spread + mean).to(dtype),
        "value": images[2].to(dtype),
        "homography": H,
        "bias": torch.randn(heads, 2, window, window, generator=g),
    }
    options = {"neighbors": torch.tensor([[1, 0]], device=device), "heads": heads, "window": window}
    return {n: t.to(device) for n, t in tensors.items()}, options


def errors(tensors, options, backend, both):
    """Of out, of lse where ``both`` are used, and of every gradient: mean error, plain torch's, and rounding's."""

    def results(name, dtype=None):
        call = functools.partial(homography_align, **options, return_lse=both, backend=name)
        placed = tensors if dtype is None else {n: t.to(dtype) for n, t in tensors.items()}
        _, outs, grads = run(call, placed, {}, tuple(tensors))
        return dict(zip(("out", "lse"), outs)) | grads

    exact, plain, got = results("torch", torch.float64), results("torch"), results(backend)
    found = {}
    for name, value in exact.items():
        seen = value.isfinite()  # the lse of a pixel that sees nothing is not
        assert torch.equal(got[name][~seen].double(), value[~seen]), name
        error, own = ((r[name].double() - value)[seen].abs().mean() for r in (got, plain))
        found[name] = torch.stack((error, own, torch.finfo(got[name].dtype).eps * value[seen].abs().mean()))
    return found


def assert_within_twice_plain_torch(draws):
    """On average: where logits are as coarse as their differences, the largest error is a matter of luck."""
    for name in draws[0]:
        error, own, rounding = torch.stack([draw[name] for draw in draws]).mean(0).tolist()
        assert error <= 2 * own + 8 * rounding, f"{name}: error {error:.2e}, plain torch's {own:.2e}"


@pytest.mark.parametrize(("backend", "device", "dtype", "size", "mean"), on_every_row(10, 100, 1000))
def test_gradients_of_large_features(backend, device, dtype, size, mean):
    few = simulated(backend, device)
    draws = [features(mean, dtype, size, device, seed) for seed in range(1 if few else 4)]
    for both in (False,) if few else (False, True):
        assert_within_twice_plain_torch([errors(*draw, backend, both) for draw in draws])


@pytest.mark.parametrize(("backend", "device", "dtype", "size", "mask"), on_every_row(LEAST / 2, -1e9, LEAST, -1e4))
def test_gradients_of_large_masks(backend, device, dtype, size, mask):
    """A finite bias that masks one slot, and in the first head everything."""
    tensors, options = features(0, dtype, size, device)
    tensors["bias"][:, 0] = mask
    tensors["bias"][0] = mask
    assert_within_twice_plain_torch([errors(tensors, options, backend, both=True)])


@pytest.mark.parametrize(("backend", "device", "dtype", "size", "mean"), on_every_row(1000))
def test_the_only_cell_has_all_the_weight(backend, device, dtype, size, mean):
    """Its logit, however large, changes nothing but lse: exactly so, or rounding errors become gradients."""
    tensors, options = features(mean, dtype, size, device)
    tensors |= {"homography": tensors["homography"][:, :, :1], "bias": tensors["bias"][:, :1, :1, :1]}
    options |= {"neighbors": options["neighbors"][:, :1], "window": 1}
    out, lse = homography_align(
        **{n: t.requires_grad_() for n, t in tensors.items()}, **options, return_lse=True, backend=backend
    )
    seen = lse.detach().isfinite()
    assert seen.any()
    query, key, value, bias = (tensors[n] for n in ("query", "key", "value", "bias"))
    of_out = torch.autograd.grad(out.float().square().sum(), (query, key, bias, value), retain_graph=True)
    assert [grad.abs().max().item() for grad in of_out[:3]] == [0, 0, 0]
    assert of_out[3].abs().max() > 0
    (of_lse,) = torch.autograd.grad(lse[seen].sum(), bias)
    assert torch.equal(of_lse.flatten(), seen.sum((0, 1, 3, 4)).to(bias))


def small_call(dtype=torch.float64, neighbors=((1, 0), (-1, 1)), **changes):
    """Of few pixels, some of which see nothing."""
    g = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 4, 3, 3, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    value = torch.randn(1, 2, 2, 3, 3, generator=g, dtype=torch.float64).to(dtype)
    compute = torch.promote_types(dtype, torch.float32)
    H = torch.eye(3, dtype=compute).repeat(1, 2, 2, 1, 1)
    H[..., :2, 2] = 2.6 * torch.rand(1, 2, 2, 2, generator=g, dtype=torch.float64).to(compute) - 1
    bias = torch.randn(2, 2, 3, 3, generator=g, dtype=torch.float64).to(compute)
    call = AlignCall(query, key, value, H, torch.tensor(neighbors), bias, 2, 3, 0.5, deterministic=False)
    return call._replace(**changes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_reference_computes_in_float32(dtype):
    """Logits and sums beyond float16's 65504, and out rounded only once."""
    call = small_call(dtype)
    call = call._replace(query=call.query * 20 + 300, key=call.key * 20 + 300)
    wide = call._replace(**{n: getattr(call, n).float() for n in ("query", "key", "value")})
    (out, *sums), (exact, *exact_sums) = reference(call), reference(wide)
    assert exact_sums[0].max() > 65504
    assert torch.equal(out, exact.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(sums, exact_sums))
    assert out.isfinite().all()


def test_the_reference_takes_neighbors_out_of_range_for_empty_slots():
    for a, b in zip(
        reference(small_call(neighbors=((1, 2), (-7, 1)))), reference(small_call(neighbors=((1, -1), (-1, 1))))
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "row", [row for row in OP.backends if "cpu" in row.devices], ids=lambda row: f"{OP.name}-{row.name}-cpu-float32"
)
def test_the_peak_is_a_constant(row):
    """The parts of lse that the registered operator gives apart: the backward needs both, and users neither."""
    if row.missing is not None:
        pytest.skip(row.missing)
    tensors, options = features(10, torch.float32, "narrow", "cpu")
    call = AlignCall(**tensors, **options, scale=0.3, deterministic=False)
    call = call._replace(query=call.query.requires_grad_())
    out, peak, log_sum = run_operator(call, row.name)
    assert (out.requires_grad, peak.requires_grad, log_sum.requires_grad) == (True, False, True)
    _, exact_peak, exact_log_sum = reference(
        AlignCall(*(t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in call))
    )
    torch.testing.assert_close(peak.double(), exact_peak, rtol=1e-6, atol=0)
    torch.testing.assert_close(log_sum.double(), exact_log_sum, rtol=0, atol=1e-3)
    assert log_sum.min() >= 0
