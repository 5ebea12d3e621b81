"""What random calls are made with and compared by: strategies of arguments, legal and spoiled, and of results."""

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.test_properties import CALLS, close, far_shift, layouts, randn
from vsad.ops.common.checks import compute_dtype
from vsad.ops.common.registry import Operator
from vsad.ops.prototype_distance.reference import distances_at

REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError)
TORCH_REFUSES = ("vsad::", "Stride calculation overflowed", "Storage size calculation overflowed", "setStorage: ")
COMPARED = (torch.float32, torch.float64)
FINITE = ("normal", "zeros", "lattice")


class Call(NamedTuple):
    """A call that worked."""

    operator: Operator[Any]
    arguments: dict[str, Any]  # of the public function, but for the backend
    differentiable: tuple[str, ...]
    values: str  # what the tensors hold
    outs: tuple[Tensor, ...]  # with their graph

    def tensors(self, *dtypes):
        return {n: t for n, t in self.arguments.items() if isinstance(t, Tensor) and (not dtypes or t.dtype in dtypes)}

    @property
    def far(self):
        """By how much points are shifted far outside, where padding lets them be seen; 1 for others."""
        seen = self.arguments.get("padding", "zeros") != "zeros"
        return far_shift(self.arguments["homography"].detach()) if seen else 1.0

    @property
    def terms(self):
        """Values of about this size cancel in the results."""
        homography = self.arguments.get("homography")
        return 1.0 if homography is None else max(self.far, amplification(homography.detach(), self.outs[0].shape[-2:]))


def amplification(homography, size):
    """How many times more than rounding errors of their terms the coordinates of points that are seen are off."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=homography.dtype) for n in size), indexing="ij")
    points = torch.stack([x.flatten(), y.flatten(), torch.ones(x.numel(), dtype=x.dtype)])
    (*_, Z), terms = (homography @ points).movedim(-2, 0), (homography.abs() @ points).amax(-2)
    ratio = (terms / Z)[(Z > 0) & (terms / Z < 1e5)]
    return max(1.0, ratio.amax().item() / 8) if ratio.numel() else 1.0


def expanded(t):
    """All elements of the longest dimension share their memory."""
    longest = max(range(t.ndim), key=lambda d: t.shape[d], default=0)
    return t.narrow(longest, 0, min(1, t.shape[longest])).expand_as(t) if t.numel() else t


def lazily_negated(t):
    """A view whose memory holds the negative, as the imaginary part of a conjugate does."""
    return torch.complex(t, -t).conj().imag if t.dtype in COMPARED else t


def misaligned(t):
    raw = bytearray(8 + t.numel() * t.element_size())
    return torch.frombuffer(raw, dtype=t.dtype, count=t.numel(), offset=1).view(t.shape).copy_(t) if t.numel() else t


def freed(t):
    t = t.detach().clone()
    t.untyped_storage().resize_(0)
    return t


def is_freed(value):
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_cpu
        and not value.data_ptr()
        and value.numel() > 0
    )


@st.composite
def valued(draw, t, values, g):
    """The tensor with values of a kind."""
    if values == "zeros":
        return t * 0
    if values == "lattice":  # many equal rows, dot products and distances
        return (2 * t).round() / 2
    if values == "huge":
        return t * 1e15
    if values == "not finite":
        broken = torch.rand(t.shape, generator=g) < 0.05
        return t.masked_fill(broken, draw(st.sampled_from([float("nan"), float("inf"), -float("inf")])))
    return t


@st.composite
def legal_arguments(draw, operator, dtypes):
    """The arguments of a legal call, its differentiable ones, and the kind of its values."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors, options, differentiable = draw(CALLS[operator.name](g))
    dtype = draw(st.sampled_from(dtypes))
    values = draw(st.sampled_from([*FINITE, "normal", "huge", "not finite"]))
    layout = draw(st.one_of(layouts, st.sampled_from([expanded, lazily_negated])))
    for name, t in tensors.items():
        if name in ("homography", "bias"):
            tensors[name] = t.to(compute_dtype(dtype)) if dtype.is_floating_point else t.float()
        elif dtype == torch.uint8:
            tensors[name] = (64 * t + 128).clamp(0, 255).to(dtype)
        else:
            tensors[name] = layout(draw(valued(t, values, g)).to(dtype))
    if operator.name.startswith("homography"):
        options["deterministic"] = draw(st.sampled_from([None, False, True]))
    differentiable = differentiable if dtype.is_floating_point else ()
    followed = [n for n in differentiable if draw(st.booleans())]
    tensors = {n: t.requires_grad_() if n in followed else t for n, t in tensors.items()}
    return {**tensors, **options}, differentiable, values


SPOILED_TENSORS = [
    *(lambda t, d=d: t.to(d) for d in (torch.int32, torch.float16, torch.float64, torch.bool, torch.complex64, "meta")),
    lambda t: t[None],
    lambda t: t.flatten(),
    lambda t: t.mT if t.ndim > 1 else t,
    lambda t: t[..., :-1],
    lambda t: t[:0],
    lambda t: t[..., :0],
    lambda t: t.to_sparse(),
    lambda t: t.tolist(),
    lambda t: None,
    lambda t: t + (1 << 40) if t.dtype == torch.int64 else t,  # as indices, far outside
    lambda t: t - 2,
    freed,
    misaligned,
    expanded,
]
SPOILED = {
    bool: [1, None, "yes"],
    int: [-1, 0, 4, 1 << 62, -(1 << 63), 2.5, True, None, "3", torch.tensor(2)],
    float: [float("nan"), float("inf"), 1e30, "1", torch.tensor(1.0)],
    str: ["abacus", "torch", None, 3],
    tuple: [(0, 5), (3,), (3, 4, 5), (2.5, 3), (-1, 2), (1 << 62, 2), 7, None],
    list: [[], [True], [True] * 9],
}


def draw_spoiled(data, name, value):
    """Something else in a value's place, nearly always wrong.

    What to do with a tensor is drawn, not the result: hypothesis prints what is drawn, and to print a tensor without
    memory ends the process.
    """
    if isinstance(value, Tensor):
        return data.draw(st.sampled_from(SPOILED_TENSORS), label=name)(value.detach())
    return data.draw(st.sampled_from(SPOILED.get(type(value), [3, "abacus", torch.ones(2)])), label=name)


@st.composite
def optional_cotangents(draw, out):
    """None, or a gradient that comes in for a result."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layout = draw(st.one_of(layouts, st.sampled_from([expanded, lazily_negated])))
    return (
        draw(st.sampled_from([None, layout(randn(g, *out.shape).to(out.dtype))])) if out.is_floating_point() else None
    )


def tuple_of(result):
    return tuple(result) if isinstance(result, tuple) else (result,)


def attempt(function, *arguments):
    """The results, or the refusal."""
    try:
        return tuple_of(function(*arguments))
    except REFUSALS as refusal:
        return refusal


def is_refused(found, *names):
    """Whether a call was refused in words, by an operator of these names or by torch."""
    starts = (*(f"{name}: " for name in names), *TORCH_REFUSES)
    return isinstance(found, Exception) and str(found).startswith(starts)


def dense_copy(value):
    """A tensor's values in memory of its own, to be differentiated as it is."""
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def gradients(outs, leaves, cotangents, create_graph=False):
    """Of those results that have a cotangent, None aside; zeros where there is none."""
    pairs = [(o, c) for o, c in zip(outs, cotangents) if o.requires_grad and c is not None]
    if not pairs:
        return [torch.zeros_like(t) for t in leaves]
    outs, cotangents = zip(*pairs)
    found = torch.autograd.grad(
        outs, leaves, cotangents, retain_graph=True, allow_unused=True, create_graph=create_graph
    )
    return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found)]


def gradients_of_gradients(outs, leaves, cotangents):
    """Those of the sum of squares of the gradients."""
    squares = [g.double().square().sum() for g in gradients(outs, leaves, cotangents, create_graph=True)]
    return gradients(squares, leaves, [torch.ones_like(s) for s in squares])


def check_agree(call, outs, expected):
    """The results of a call are those of the reference, which are given."""
    for i, (got, want) in enumerate(zip(outs, expected, strict=True)):
        got, want = got.detach(), want.detach()
        assert (got.shape, got.dtype) == (want.shape, want.dtype), f"out[{i}]"
        if call.far > 1 and got.dtype != torch.float64:  # float32 holds no fraction of a pixel that far away
            assert torch.equal(got.isfinite(), want.isfinite())
        elif got.dtype in COMPARED and got.dtype == outs[0].dtype:  # not what float32 sums of halves are
            # sums of infinities depend on their order
            if call.values == "not finite" and "homography" in call.arguments:
                finite = got.isfinite() & want.isfinite()
                got, want = got[finite], want[finite]
            close(f"out[{i}]", got, want, got.dtype, call.terms)
        elif got.dtype == torch.uint8:  # halves may be rounded either way
            close(f"out[{i}]", got.double(), want.double(), torch.float64, 1 / (2000 * torch.finfo(torch.float64).eps))
        elif not got.is_floating_point() and call.tensors(*COMPARED, torch.uint8):
            if call.operator.name == "prototype_distance":
                check_reached(call, got, expected[0])
            else:
                assert torch.equal(got, want), f"out[{i}]"


def check_reached(call, indices, distances):
    """Indices lead to the distances; which of equal ones they name is open."""
    features, prototypes = (call.arguments[name].detach() for name in ("features", "prototypes"))
    rows = features.flatten(0, -2)
    reached = distances_at(rows, prototypes, indices.flatten(0, -2), call.arguments["metric"])
    if reached.dtype in COMPARED:
        close("indices", reached.view_as(distances), distances.detach(), reached.dtype)


def check_same(got, expected):
    """Bit for bit, but for the bits of NaN."""
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
