"""Random calls of every operator, one after the other: legal ones, wrong ones, and what torch lets users do with them.

Whatever happens, legal results are the reference's, wrong calls are refused in words, nothing else in memory changes,
and the process lives. Under sanitizers (``make sanitize``) the kernels touch no memory that is not theirs either.
"""

import copy
import io
import itertools
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vsad.ops
from tests.samples import ERRORS, function_of
from tests.test_properties import CALLS, close, far_shift, layouts, randn
from vsad.ops.common.backends import FLOATS
from vsad.ops.common.checks import compute_dtype
from vsad.ops.common.registry import OPERATORS, REFERENCE, Operator
from vsad.ops.prototype_distance.call import METRICS
from vsad.ops.prototype_distance.reference import distances_at

BACKENDS = [  # GPU kernels are emulated or interpreted here
    pytest.param(name, marks=[pytest.mark.slow] if name != "cpu" else [])
    for name in ("cpu", "cuda", "triton")
    if any(r.name == name and r.missing is None and "cpu" in r.devices for op in OPERATORS.values() for r in op.backends)
]
SETTINGS = settings(
    max_examples=5, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError)
TORCH_REFUSES = ("Stride calculation overflowed", "Storage size calculation overflowed")
COMPARED = (torch.float32, torch.float64)
ERROR_CASES = [(name, case[0]) for name, cases in ERRORS.items() for case in cases]
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


# Strategies. Those of legal calls are tests/test_properties.py's.


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
    return isinstance(value, Tensor) and value.layout == torch.strided and value.is_cpu and not value.data_ptr() and value.numel() > 0


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


def spoiled(value):
    """Strategy: something else in a value's place, nearly always wrong."""
    if isinstance(value, Tensor):
        return st.sampled_from(SPOILED_TENSORS).map(lambda spoil: spoil(value.detach()))
    return st.sampled_from(SPOILED.get(type(value), [3, "abacus", torch.ones(2)]))


operators = st.sampled_from(list(OPERATORS.values()))


@st.composite
def optional_cotangents(draw, out):
    """None, or a gradient that comes in for a result."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layout = draw(st.one_of(layouts, st.sampled_from([expanded, lazily_negated])))
    return draw(st.sampled_from([None, layout(randn(g, *out.shape).to(out.dtype))])) if out.is_floating_point() else None


# What is done with calls.


class Recorder(TorchDispatchMode):
    """Remembers the calls of registered operators."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "vsad":
            self.seen.append((func, args))
        return func(*args, **(kwargs or {}))


def tuple_of(result):
    return tuple(result) if isinstance(result, tuple) else (result,)


def attempt(function, *arguments):
    """The results, or the refusal."""
    try:
        return tuple_of(function(*arguments))
    except REFUSALS as refusal:
        return refusal


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
            if call.values == "not finite" and call.operator.name.startswith("homography"):  # 0 * inf may be left out
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
    rows = features.reshape(-1, features.shape[-1])
    reached = distances_at(rows, prototypes, indices.reshape(len(rows), -1), call.arguments["metric"])
    if reached.dtype in COMPARED:
        close("indices", reached.view_as(distances), distances.detach(), reached.dtype)


def check_same(got, expected):
    """Bit for bit, but for the bits of NaN."""
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def through_file(bank):
    file = io.BytesIO()
    torch.save(bank, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_state_dict(bank):
    P, C = bank.shape
    other = vsad.ops.pack_prototypes(torch.ones(P, C, dtype=bank.dtype), metric=bank.metric)
    other.load_state_dict(bank.state_dict())
    return other


COPIES = {
    "file": through_file,
    "state_dict": through_state_dict,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "half": lambda bank: copy.deepcopy(bank).half(),
    "double": lambda bank: copy.deepcopy(bank).to(torch.float64),
    "meta": lambda bank: copy.deepcopy(bank).to("meta"),
}
SPOILED_BANKS = [
    lambda t: t[:-1],
    lambda t: t[1:],
    lambda t: t.float(),
    lambda t: t[None],
    lambda t: t.to("meta"),
    lambda t: t[::2],
    lambda t: torch.full_like(t, 255),
    freed,
]
MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "dispatch": Recorder,
}


class Machine(RuleBasedStateMachine):
    """Its rules are what users do; its state is what they have at hand: earlier calls, their tensors, packed banks."""

    backend = "cpu"
    made = 0  # calls of kernels, in all examples
    calls, banks = Bundle("calls"), Bundle("banks")

    def __init__(self):
        super().__init__()
        self.memory = []  # of every tensor so far: its storage as bytes, and what they were
        self.threads = torch.get_num_threads()

    def teardown(self):
        torch.set_num_threads(self.threads)

    @invariant()
    def nothing_else_in_memory_changes(self):
        for memory, before in self.memory:
            assert torch.equal(memory, before)

    def keep(self, *values):
        for t in values:
            if isinstance(t, Tensor):
                memory = torch.empty(0, dtype=torch.uint8).set_(t.detach().untyped_storage())
                self.memory.append((memory, memory.clone()))

    def run(self, operator, arguments, backend):
        type(self).made += backend != REFERENCE
        options = {"return_lse": True} if operator.name == "homography_align" else {}
        options = {"return_mask": True} if operator.name == "homography_warp" else options
        return tuple_of(function_of(operator)(**{**options, **arguments}, backend=backend))

    def again(self, call, **changes):
        """The call made once more."""
        return self.run(call.operator, {**call.arguments, **changes}, self.backend)

    def new_call(self, operator, arguments, differentiable, values):
        """Makes a call, and compares it with the reference."""
        self.keep(*arguments.values())
        call = Call(operator, arguments, differentiable, values, self.run(operator, arguments, self.backend))
        check_agree(call, call.outs, self.reference(call)[0])
        self.keep(*call.outs)
        return call

    def reference(self, call):
        """Results of the reference, and the copies of the arguments that it was given."""
        copies = {n: dense_copy(t) for n, t in call.arguments.items()}
        return self.run(call.operator, copies, REFERENCE), copies

    @rule(target=calls, operator=operators, data=st.data())
    def make_a_call(self, operator, data):
        dtypes = operator.backend(self.backend).dtypes
        return self.new_call(operator, *data.draw(legal_arguments(operator, dtypes), label="call"))

    @rule(target=calls, call=calls, operator=operators, metric=st.sampled_from(METRICS))
    def feed_results(self, call, operator, metric):
        """What came out of one call goes into another, in all its places."""
        t = call.outs[0]
        if not t.is_floating_point() or not t.numel() or t.dtype not in operator.backend(self.backend).dtypes:
            return multiple()
        rows = t.flatten(0, -2)
        x = t[(None,) * (5 - t.ndim)]
        V = x.shape[1]
        arguments = {
            "homography_align": {"query": x, "key": x, "value": x, "homography": torch.eye(3).expand(V, V - 1, 3, 3)},
            "homography_warp": {"input": x[0], "homography": torch.eye(3), "size": (2, 5)},
            "prototype_distance": {"features": rows, "prototypes": rows[:9], "k": 1, "metric": metric},
            "greedy_coreset": {"features": rows, "size": min(5, len(rows))},
        }[operator.name]
        known = operator.gradients.arguments if operator.gradients else ()
        differentiable = [n for n in arguments if n in known and arguments[n].requires_grad]
        values = call.values if t.isfinite().all() else "not finite"
        return self.new_call(operator, arguments, tuple(differentiable), values)

    @rule(case=st.sampled_from(ERROR_CASES))
    def make_a_wrong_call(self, case):
        name, make = case
        arguments = make()
        backend = arguments.pop("backend", self.backend)
        refusal = attempt(self.run, OPERATORS[name], arguments, backend)
        assert isinstance(refusal, Exception) and str(refusal).startswith(f"{name}: "), refusal

    @rule(call=calls, data=st.data())
    def spoil_an_argument(self, call, data):
        """Either both refuse, or both agree."""
        name = data.draw(st.sampled_from(sorted(call.arguments)))
        arguments = {**call.arguments, name: data.draw(spoiled(call.arguments[name]), label=name)}
        found = attempt(self.run, call.operator, arguments, self.backend)
        if is_freed(arguments[name]):  # torch's own operators would end the process
            assert isinstance(found, Exception), found
            return
        expected = attempt(self.run, call.operator, arguments, REFERENCE)
        if isinstance(found, Exception):
            assert str(found).startswith(f"{call.operator.name}: ") or isinstance(expected, Exception), found
        else:
            assert isinstance(expected, tuple), expected
            check_agree(call._replace(arguments=arguments, outs=found), found, expected)

    @rule(call=calls, data=st.data(), derivative=st.sampled_from([gradients, gradients_of_gradients]))
    def differentiate(self, call, data, derivative):
        names = [n for n in call.differentiable if call.arguments[n].requires_grad]
        if not names:
            return
        wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True), label="wanted")
        cotangents = [data.draw(optional_cotangents(out), label="cotangent") for out in call.outs]
        self.keep(*cotangents)
        type(self).made += 1
        found = derivative(call.outs, [call.arguments[n] for n in wanted], cotangents)
        outs, copies = self.reference(call)
        expected = derivative(outs, [copies[n] for n in wanted], cotangents)
        for name, got, want in zip(wanted, found, expected):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            comparable = call.values in FINITE and (call.far == 1 or got.dtype == torch.float64)
            if comparable and got.dtype in COMPARED[derivative is gradients_of_gradients :]:
                terms = far_shift(copies[name].detach()) if name == "homography" else 1.0
                close(f"grad_{name}", got, want, got.dtype, max(terms, call.terms))

    @rule(call=calls)
    def follow_the_whole_chain(self, call):
        """Through all calls whose results were fed to this one."""
        total = sum(t.double().sum() for t in call.outs if t.requires_grad)
        if isinstance(total, Tensor):
            type(self).made += 1
            total.backward(retain_graph=True)

    @rule(call=calls, data=st.data())
    def batch(self, call, data):
        """torch.vmap is a loop."""
        tensors = call.tensors()
        names = data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, unique=True), label="batched")
        dim = data.draw(st.sampled_from([0, -1]), label="dim")
        pairs = {n: (tensors[n].detach(), tensors[n].detach().roll(1, -1)) for n in names}
        stacked = {n: torch.stack(pair, dim) for n, pair in pairs.items()}
        found = torch.vmap(lambda slices: self.again(call, **slices), in_dims=dim)(stacked)
        for i in range(2):
            changes = {n: pair[i] for n, pair in pairs.items()}
            one = call._replace(arguments={**call.arguments, **changes})
            check_agree(one, [t[i] for t in found], self.again(call, **changes))

    @rule(call=calls, data=st.data())
    def differentiate_by_torch_func(self, call, data):
        if not call.differentiable:
            return
        names = data.draw(st.lists(st.sampled_from(call.differentiable), min_size=1, unique=True), label="wanted")
        leaves = {n: call.arguments[n].detach().clone() for n in names}

        def total(leaves):
            return sum(t.sum() for t in self.again(call, **leaves) if t.dtype == call.outs[0].dtype)

        found = torch.func.grad(total)(leaves)
        followed = {n: t.requires_grad_() for n, t in leaves.items()}
        expected = torch.autograd.grad(total(followed), list(followed.values()))
        check_same([found[n] for n in names], expected)

    @rule(call=calls, mode=st.sampled_from(sorted(MODES)))
    def enter_a_mode(self, call, mode):
        expected = self.again(call)
        with MODES[mode]():
            found = self.again(call)
        check_same(found, expected)

    @rule(call=calls, name=st.sampled_from([REFERENCE, "kernels", "abacus"]))
    def use_a_backend(self, call, name):
        name = self.backend if name == "kernels" else name
        if name == "abacus":
            with pytest.raises(ValueError, match="^using: "), vsad.ops.using(name):
                pass
            return
        with vsad.ops.using(name):
            found = self.run(call.operator, call.arguments, None)
        check_same(found, self.run(call.operator, call.arguments, name))

    @rule(call=calls, dtype=st.sampled_from([torch.bfloat16, torch.float16]))
    def autocast(self, call, dtype):
        if dtype not in call.operator.backend(self.backend).dtypes:
            return
        with torch.autocast("cpu", dtype):
            check_agree(call, self.again(call), self.reference(call)[0])

    @rule(call=calls, data=st.data())
    def call_a_registered_operator(self, call, data):
        """With what the public function gives it, but for one argument."""
        followed = {n: call.arguments[n].detach().clone().requires_grad_() for n in call.differentiable}
        with Recorder() as recorder:
            outs = self.again(call, **followed)
            gradients(outs, list(followed.values()), [torch.ones_like(t) for t in outs])
        operator, arguments = data.draw(st.sampled_from(recorder.seen), label="operator")
        type(self).made += 2
        operator(*arguments)
        place = data.draw(st.integers(0, len(arguments) - 1), label="place")
        changed = data.draw(spoiled(arguments[place]), label="changed")
        found = attempt(operator, *arguments[:place], changed, *arguments[place + 1 :])
        if isinstance(found, Exception):
            assert str(found).startswith((f"{call.operator.name}: ", "vsad::", *TORCH_REFUSES)), found

    @rule(target=banks, data=st.data())
    def pack(self, data):
        arguments, _, _ = data.draw(legal_arguments(OPERATORS["prototype_distance"], FLOATS), label="arguments")
        return vsad.ops.pack_prototypes(arguments["prototypes"], metric=arguments["metric"])

    @rule(value=st.sampled_from([torch.ones(3), torch.ones(0, 4), torch.ones(3, 4).int(), torch.eye(3).to_sparse(), 3]))
    def pack_what_is_no_bank(self, value):
        refusal = attempt(vsad.ops.pack_prototypes, value)
        assert isinstance(refusal, Exception) and str(refusal).startswith("pack_prototypes: "), refusal

    @rule(target=banks, bank=banks, how=st.sampled_from(sorted(COPIES)))
    def copy_a_bank(self, bank, how):
        return COPIES[how](bank)

    def search(self, bank, features, k=1):
        arguments = {"features": features, "prototypes": bank, "k": k, "metric": bank.metric}
        return self.run(OPERATORS["prototype_distance"], arguments, None)

    @rule(bank=banks, seed=st.integers(0, 99), data=st.data())
    def search_a_bank(self, bank, seed, data):
        """As its tensor would be searched."""
        P, C = bank.shape
        features = randn(torch.Generator().manual_seed(seed), data.draw(st.integers(0, 70)), C).to(bank.dtype)
        features, k = features.to(bank.device), data.draw(st.integers(1, min(P, 12)))
        arguments = {"features": features, "prototypes": bank, "k": k, "metric": bank.metric}
        found, expected = (
            self.run(OPERATORS["prototype_distance"], {**arguments, "prototypes": p}, None)
            for p in (bank, bank.prototypes)
        )
        if bank.device.type == "cpu":
            check_same(found, expected)

    @rule(bank=banks, spoil=st.sampled_from(SPOILED_BANKS))
    def search_a_spoiled_bank(self, bank, spoil):
        if bank.packed is None:
            return
        broken = copy.copy(bank)
        broken.packed = spoil(bank.packed)
        found = attempt(self.search, broken, torch.ones(3, bank.shape[1], dtype=bank.dtype, device=bank.device))
        assert not isinstance(found, Exception) or str(found).startswith("prototype_distance: "), found

    @rule(threads=st.integers(1, 4))
    def set_threads(self, threads):
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_calls(backend, request, record_property):
    wanted = request.config.getoption("--calls") or (10_000 if request.config.getoption("--slow") else 500)
    machine = type("Machine", (Machine,), {"backend": backend})
    for seed in itertools.count():
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=SETTINGS)
        if machine.made >= wanted:
            break
    record_property("calls", machine.made)
    print(f"{machine.made} calls of the backend {backend!r}")
