"""Kernels against their references on shapes, layouts and homographies that hypothesis draws."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samples import function_of
from tests.samples._sample import homographies
from tests.test_ops import floats, run
from vsad.ops.common.registry import OPERATORS

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=150, database=None)
PROFILE = settings.get_profile("fixed")
FEW = 25  # examples where GPU kernels are emulated or interpreted; with --slow as many as on others

sizes = st.integers(1, 9)


def dense(t):
    return t


def reversed_order(t):
    return t.permute(*range(t.ndim)[::-1]).contiguous().permute(*range(t.ndim)[::-1])


def channels_inside(t):
    """Channels last, or columns side by side."""
    return (
        t.movedim(-2, -1).contiguous().movedim(-1, -2) if t.ndim < 3 else t.movedim(-3, -1).contiguous().movedim(-1, -3)
    )


def amid_nan(t):
    buffer = t.new_full([2 * n + 3 for n in t.shape], float("nan"))
    return buffer[tuple(slice(1, 2 * n + 1, 2) for n in t.shape)].copy_(t)


layouts = st.sampled_from([dense, reversed_order, channels_inside, amid_nan])
KINDS = ("near", "mirrored", "horizon", "behind", "far outside", "shift", "minified", "broken")


@st.composite
def drawn_homographies(draw, g, batch, target, source):
    """One homography for each of ``batch``, of one kind."""
    kind = draw(st.sampled_from(KINDS))
    H = homographies(g, batch, target, source, 1.5 if kind in ("horizon", "behind") else 0.1, kind == "mirrored")
    if kind == "behind":
        H = -H
    if kind == "far outside":
        H[..., 0, 2] += draw(st.sampled_from([30.0, -1e6, 1e30]))
    if kind == "shift":
        H = torch.eye(3, dtype=torch.float64).repeat(*batch, 1, 1)
        H[..., 0, 2], H[..., 1, 2] = draw(st.integers(-3, 3)), draw(st.integers(-3, 3))
    if kind == "minified":
        H[..., :2, :] *= 3
    if kind == "broken":
        H[..., draw(st.integers(0, 2)), draw(st.integers(0, 2))] = draw(
            st.sampled_from([float("nan"), float("inf"), 0])
        )
    return H


def randn(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@st.composite
def align_calls(draw, g):
    B, V, S, N, heads = (draw(st.integers(low, high)) for low, high in ((0, 2), (1, 3), (1, 3), (0, 3), (1, 3)))
    C, Cv = heads * draw(sizes), heads * draw(sizes)
    target, source = (draw(sizes), draw(sizes)), (draw(sizes), draw(sizes))
    window = draw(st.sampled_from([1, 3, 5]))
    tensors = {
        "query": randn(g, B, V, C, *target),
        "key": randn(g, B, S, C, *source),
        "value": randn(g, B, S, Cv, *source),
        "homography": draw(drawn_homographies(g, (B, V, N), target, source)),
        "bias": randn(g, heads, N, window, window),
    }
    neighbors = torch.randint(-1, S, (V, N), generator=g)
    return tensors, {"neighbors": neighbors, "heads": heads, "window": window, "return_lse": True}, tuple(tensors)


@st.composite
def warp_calls(draw, g):
    B, C = draw(st.integers(0, 3)), draw(sizes)
    source, size = (draw(sizes), draw(sizes)), (draw(sizes), draw(sizes))
    mode = draw(st.sampled_from(["bilinear", "nearest", "bicubic"]))
    padding = draw(st.sampled_from(["zeros", "border", "reflection"]))
    tensors = {"input": randn(g, B, C, *source), "homography": draw(drawn_homographies(g, (B,), size, source))}
    differentiable = ("input",) if mode == "nearest" else ("input", "homography")
    return tensors, {"size": size, "mode": mode, "padding": padding}, differentiable


@st.composite
def distance_calls(draw, g):
    M, P, C = draw(st.integers(0, 40)), draw(st.integers(1, 300)), draw(st.integers(1, 40))
    metric = draw(st.sampled_from(["euclidean", "sqeuclidean", "cosine"]))
    tensors = {"features": randn(g, M, C), "prototypes": draw(st.sampled_from([0.0, 10.0])) + randn(g, P, C)}
    if metric == "cosine":  # its gradient grows as 1 / length: rows of length 1 at least
        lengths = {name: t.norm(dim=1, keepdim=True) for name, t in tensors.items()}
        tensors = {name: torch.where(lengths[name] > 0, t / lengths[name] + t, t) for name, t in tensors.items()}
    return tensors, {"k": draw(st.integers(1, min(P, 12))), "metric": metric}, tuple(tensors)


@st.composite
def coreset_calls(draw, g):
    M, C = draw(st.integers(1, 150)), draw(st.integers(0, 30))
    features = randn(g, M, C)
    kind = draw(st.sampled_from(["normal", "duplicates", "lattice", "not finite"]))
    if kind == "duplicates":
        features = features[torch.randint(0, 1 + M // 3, (M,), generator=g)]
    if kind == "lattice":
        features = (features * 2).round() / 10
    if kind == "not finite":
        features[torch.rand(M, C, generator=g) < 0.05] = draw(st.sampled_from([float("nan"), float("inf")]))
    return {"features": features}, {"size": draw(st.integers(1, M)), "start": draw(st.integers(0, M - 1))}, ()


CALLS = {
    "homography_align": align_calls,
    "homography_warp": warp_calls,
    "prototype_distance": distance_calls,
    "greedy_coreset": coreset_calls,
}
ROWS = [
    pytest.param(op, row, id=f"{op.name}-{row.name}")
    for op in OPERATORS.values()
    for row in op.backends
    if "cpu" in row.devices and row.missing is None
]


def far_shift(homography):
    """The largest entry of a homography that maps points far outside; 1 for others.

    Its gradient there is the difference of terms as large as this, of which rounding errors remain.
    """
    finite = homography[torch.isfinite(homography)].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    return largest if 1e5 < largest < 1e9 else 1.0  # beyond that nothing is seen, and results are exactly zero


def close(name, got, expected, dtype, terms=1.0):
    """To some thousand units of rounding of the largest value, or of the terms, which may cancel; NaN exactly."""
    finite = expected[torch.isfinite(expected)].abs()
    scale = max(terms, finite.max().item()) if finite.numel() else terms
    tolerance = 2000 * torch.finfo(dtype).eps * scale
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize(("operator", "row"), ROWS)
def test_equals_the_reference(operator, row, request):
    simulated = row.name in ("cuda", "triton") and not request.config.getoption("--slow")
    fixed = settings(PROFILE, max_examples=FEW) if simulated else PROFILE
    operator = SimpleNamespace(name=operator.name, public=function_of(operator))
    dtypes = st.sampled_from([dtype for dtype in (torch.float32, torch.float64) if dtype in row.dtypes])

    @fixed
    @given(st.data())
    def check(data):
        g = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31), label="seed"))
        tensors, options, differentiable = data.draw(CALLS[operator.name](g), label="call")
        dtype, layout = data.draw(dtypes, label="dtype"), data.draw(layouts, label="layout")
        same = {n: t.to(dtype) for n, t in tensors.items()}
        placed = {n: t if n in ("homography", "bias") else layout(t) for n, t in same.items()}

        def public(name):
            return lambda **arguments: operator.public(**arguments, backend=name)

        # the same dtype on both sides, so that both decide alike what lies within the border
        expected, outs, grads = run(public("torch"), same, options, differentiable)
        result, got_outs, got_grads = run(public(row.name), placed, options, differentiable)
        # float32 holds a coordinate of a million pixels to a sixteenth of a pixel only: values differ by as much
        far = far_shift(same["homography"]) if options.get("padding", "zeros") != "zeros" else 1.0
        if dtype == torch.float32 and far > 1:
            assert all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(got_outs, outs))
            return
        for i, (got, out) in enumerate(zip(got_outs, outs)):
            close(f"out[{i}]", got, out, dtype, far)
        for name in grads:
            terms = far_shift(same[name]) if name == "homography" else 1.0
            close(f"grad_{name}", got_grads[name], grads[name], dtype, max(terms, far))
        if not floats(expected):
            assert torch.equal(result, expected)

    check()
