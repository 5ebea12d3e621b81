"""Random calls of every operator, one after the other: legal ones, wrong ones, and what torch lets users do with them.

Whatever happens, legal results are the reference's, wrong calls are refused in words, nothing else in memory changes,
and the process lives. Under sanitizers (``make sanitize``) the kernels touch no memory that is not theirs either.
"""

import copy
import io
import itertools

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from torch import Tensor

import vsad.ops
from tests.random_calls import (
    COMPARED,
    FINITE,
    Call,
    attempt,
    check_agree,
    check_same,
    dense_copy,
    draw_spoiled,
    freed,
    gradients,
    gradients_of_gradients,
    is_freed,
    is_refused,
    legal_arguments,
    optional_cotangents,
    tuple_of,
)
from tests.samples import ERRORS, function_of
from tests.small_calls import CallRecorder
from tests.test_properties import close, far_shift, randn
from vsad.ops.common.backends import FLOATS
from vsad.ops.common.registry import OPERATORS, REFERENCE
from vsad.ops.prototype_distance.call import METRICS

BACKENDS = [  # GPU kernels are emulated or interpreted here
    pytest.param(name, marks=[pytest.mark.slow] if name != "cpu" else [])
    for name in ("cpu", "cuda", "triton")
    if any(
        r.name == name and r.missing is None and "cpu" in r.devices for op in OPERATORS.values() for r in op.backends
    )
]
SLOW_CALLS = {"cpu": 10_000, "cuda": 2_000, "triton": 300}  # with --slow
SETTINGS = settings(
    max_examples=5, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
ERROR_CASES = [(name, case[0]) for name, cases in ERRORS.items() for case in cases]
operators = st.sampled_from(list(OPERATORS.values()))


def through_file(bank):
    file = io.BytesIO()
    torch.save(bank, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_state_dict(bank):
    P, C = bank.shape
    other = vsad.ops.pack_prototypes(torch.ones(P, C, dtype=bank.dtype), metric=bank.metric).to(bank.device)
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
    "dispatch": CallRecorder,
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
        once = {id(t): dense_copy(t) for t in call.arguments.values()}  # one copy of what is given in two places
        copies = {n: once[id(t)] for n, t in call.arguments.items()}
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
            "prototype_distance": {"features": rows, "prototypes": t.flatten(0, -2)[:9], "k": 1, "metric": metric},
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
        assert is_refused(refusal, name), refusal

    @rule(call=calls, data=st.data())
    def spoil_an_argument(self, call, data):
        """Either both refuse, or both agree."""
        name = data.draw(st.sampled_from(sorted(call.arguments)))
        arguments = {**call.arguments, name: draw_spoiled(data, name, call.arguments[name])}
        found = attempt(self.run, call.operator, arguments, self.backend)
        if is_freed(arguments[name]):  # torch's own operators would end the process
            assert isinstance(found, Exception), found
            return
        expected = attempt(self.run, call.operator, arguments, REFERENCE)
        if isinstance(found, Exception):
            assert is_refused(found, call.operator.name) or isinstance(expected, Exception), found
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
            comparable = call.values in FINITE and got.dtype == outs[0].dtype
            comparable &= call.far == 1 or got.dtype == torch.float64
            comparable &= torch.equal(call.outs[-1], outs[-1]) or call.operator.name != "prototype_distance"  # ties
            if comparable and got.dtype in COMPARED[derivative is gradients_of_gradients :]:
                terms = far_shift(copies[name].detach()) if name == "homography" else 1.0
                close(f"grad_{name}", got, want, got.dtype, 8 * max(terms, call.terms))  # sums of cancelling terms

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

    @rule(call=calls, data=st.data())
    def differentiate_many_times_at_once(self, call, data):
        if not call.differentiable:
            return
        names = data.draw(st.lists(st.sampled_from(call.differentiable), min_size=1, unique=True), label="wanted")
        leaves = {n: call.arguments[n].detach().clone().requires_grad_() for n in names}
        outs = [t for t in self.again(call, **leaves) if t.requires_grad]
        if not outs or not outs[0].numel():
            return
        seeds = [[torch.full_like(t, value) for t in outs] for value in (1, -0.5)]
        expected = [torch.autograd.grad(outs, list(leaves.values()), each, retain_graph=True) for each in seeds]
        found = torch.autograd.grad(
            outs, list(leaves.values()), list(map(torch.stack, zip(*seeds))), retain_graph=True, is_grads_batched=True
        )
        for i, name in enumerate(leaves):
            assert found[i].shape == (2, *leaves[name].shape)
            if call.values in FINITE:
                want = torch.stack([grads[i] for grads in expected])
                close(f"grad_{name}", found[i], want, want.dtype, 8 * call.terms)

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
            with pytest.raises(ValueError, match=r"^using: "), vsad.ops.using(name):
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
        with CallRecorder() as recorder:
            outs = self.again(call, **followed)
            gradients(outs, list(followed.values()), [torch.ones_like(t) for t in outs])
        operator, arguments = data.draw(st.sampled_from(recorder.calls), label="operator")
        type(self).made += 2
        operator(*arguments)
        place = data.draw(st.integers(0, len(arguments) - 1), label="place")
        changed = draw_spoiled(data, f"argument {place}", arguments[place])
        found = attempt(operator, *arguments[:place], changed, *arguments[place + 1 :])
        assert isinstance(found, tuple) or is_refused(found, call.operator.name), found

    @rule(target=banks, data=st.data())
    def pack(self, data):
        arguments, _, _ = data.draw(legal_arguments(OPERATORS["prototype_distance"], FLOATS), label="arguments")
        return vsad.ops.pack_prototypes(arguments["prototypes"], metric=arguments["metric"])

    @rule(value=st.sampled_from([torch.ones(3), torch.ones(0, 4), torch.ones(3, 4).int(), torch.eye(3).to_sparse(), 3]))
    def pack_what_is_no_bank(self, value):
        refusal = attempt(vsad.ops.pack_prototypes, value)
        assert is_refused(refusal, "pack_prototypes"), refusal

    @rule(bank=banks, data=st.data(), place=st.integers(0, 2))
    def pack_by_the_registered_operator(self, bank, data, place):
        if bank.device.type != "cpu":
            return
        arguments = [bank.prototypes, bank.metric, "cpu"]
        arguments[place] = draw_spoiled(data, f"argument {place}", arguments[place])
        found = attempt(torch.ops.vsad.pack_prototypes.default, *arguments)
        assert isinstance(found, tuple) or is_refused(found, "pack_prototypes", "prototype_distance"), found

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
        assert isinstance(found, tuple) or is_refused(found, "prototype_distance"), found

    @rule(threads=st.integers(1, 4))
    def set_threads(self, threads):
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_calls(backend, request, record_property):
    slow = request.config.getoption("--slow")
    wanted = request.config.getoption("--calls") or (SLOW_CALLS[backend] if slow else 300)
    machine = type("Machine", (Machine,), {"backend": backend})
    for seed in itertools.count():
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=SETTINGS)
        if machine.made >= wanted:
            break
    record_property("calls", machine.made)
    print(f"{machine.made} calls of the backend {backend!r}")
