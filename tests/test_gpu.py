"""What the GPU backends promise beside numbers: opcheck, CUDA graphs, streams, compilation, autocast, determinism.

Without a GPU, backends that are emulated or interpreted on the CPU keep the promises that are not about CUDA itself.
"""

import contextlib
import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, or torch refuses to be deterministic

import pytest
import torch

import vsad.ops
from tests.samples import SAMPLES, function_of
from tests.small_calls import CallRecorder
from tests.test_ops import floats, generator, run
from vsad.bench import cases, operators
from vsad.ops.common.registry import OPERATORS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("cuda", "triton")
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")

BUSY = {  # enough work that atomic additions arrive in another order every time
    "homography_align": cases.align(2, 3, 64, 48, 40, 4, N=2, backward=True),
    "homography_warp": cases.warp(2, 24, 96, 80, backward=True),
    "prototype_distance": cases.nearest(3000, 500, 96, k=3, backward=True),
    "greedy_coreset": cases.coreset(5000, 48, 200),
}


def rows():
    for op in OPERATORS.values():
        for row in op.backends:
            if row.name in BACKENDS:
                yield pytest.param((op, row), id=f"{op.name}-{row.name}")


@pytest.fixture(params=rows())
def kernel(request):
    """An operator and the name of one of its GPU backends."""
    op, row = request.param
    if row.missing or DEVICE not in row.devices:
        pytest.skip(row.missing or "needs a GPU")
    return op, row.name


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def placed(value):
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def make(op, seed=0, index=0, dtype=torch.float32):
    """Arguments of a sample on the GPU, the tensors and options; images in ``dtype``."""
    sample = SAMPLES[op.name][index]
    tensors, options = sample.make(generator(seed))
    narrow = sample.images or tuple(tensors)
    tensors = {n: t.to(DEVICE, dtype if n in narrow else torch.float32) for n, t in tensors.items()}
    return tensors, {n: placed(o) for n, o in options.items()}, sample.differentiable


def busy(op):
    """As ``make``, but larger, where kernels are not emulated."""
    if DEVICE == "cpu":
        return make(op)
    case = BUSY[op.name]
    problem = operators.of(case).inputs(case)
    tensors = {n: placed(t) for n, t in problem.tensors.items()}
    s, options = case.sizes, {}
    if op.name == "homography_align":
        tensors["bias"] = torch.randn(s["heads"], s["N"], s["R"], s["R"], generator=generator()).to(DEVICE)
        options = {"neighbors": tensors.pop("neighbors"), "heads": s["heads"], "window": s["R"]}
    elif op.name == "prototype_distance":
        options = {"k": s["k"]}
    elif op.name == "greedy_coreset":
        options = {"size": s["size"], "start": 0}
    return tensors, options, SAMPLES[op.name][0].differentiable


def results(op, backend, tensors, options, differentiable):
    """Everything that a call gives, gradients too, as a list of tensors."""
    result, _, grads = run(lambda **a: function_of(op)(**a, backend=backend), tensors, options, differentiable)
    return [*(result if isinstance(result, tuple) else (result,)), *grads.values()]


@contextlib.contextmanager
def may_refuse(op, backend):
    """A backend may say that it cannot; what then runs unnamed is not its promise."""
    try:
        yield
    except RuntimeError as refusal:
        if not str(refusal).startswith(f"{op.name}: backend {backend!r}"):
            raise
        pytest.skip(str(refusal))


def assert_same_bits(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_close(got, expected):
    """Up to the order of additions."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        a, b = a.detach(), b.detach()
        scale = float(b[b.isfinite()].abs().amax()) if b.is_floating_point() and b.isfinite().any() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * scale, equal_nan=True)


def test_opcheck(kernel):
    op, backend = kernel
    seen = set()
    for index in range(min(4, len(SAMPLES[op.name]))):
        tensors, options, differentiable = make(op, index=index)
        try:
            with CallRecorder() as recorder:
                results(op, backend, tensors, options, differentiable)
        except RuntimeError as refusal:
            if not str(refusal).startswith(f"{op.name}: backend {backend!r}"):
                raise
            continue
        for function, arguments in recorder.calls:
            assert arguments[-1] == backend
            seen.add(function)
            torch.library.opcheck(function, tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments))
    assert len(seen) == (2 if SAMPLES[op.name][0].differentiable else 1)


@needs_cuda
def test_a_cuda_graph_replays_on_new_inputs(kernel):
    op, backend = kernel
    tensors, options, differentiable = make(op)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is loaded and allocated once must not be captured
        for _ in range(2):
            results(op, backend, tensors, options, differentiable)
    torch.cuda.current_stream().wait_stream(side)
    cotangents = [torch.randn_like(t) for t in floats(function_of(op)(**tensors, **options, backend=backend))]

    def step():
        result, _, grads = run(
            lambda **a: function_of(op)(**a, backend=backend), tensors, options, differentiable, cotangents
        )
        return [*(result if isinstance(result, tuple) else (result,)), *grads.values()]

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (1, 2):
        fresh, fresh_options, _ = make(op, seed)
        for name, t in fresh.items():
            tensors[name].copy_(t)
        for name, option in fresh_options.items():
            if isinstance(option, torch.Tensor):
                options[name].copy_(option)
        graph.replay()
        assert_close(captured, step())


@needs_cuda
def test_runs_on_the_current_stream(kernel):
    op, backend = kernel
    tensors, options, differentiable = make(op)
    expected = results(op, backend, tensors, options, differentiable)
    late = {name: torch.zeros_like(t) for name, t in tensors.items()}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # some 60 ms: a kernel on another stream would see the zeros
        for name, t in tensors.items():
            late[name].copy_(t)
        got = results(op, backend, late, options, differentiable)
    stream.synchronize()
    assert_close(got, expected)


@needs_cuda
def test_does_not_wait_for_the_gpu(kernel):
    op, backend = kernel
    tensors, options, _ = make(op)
    function_of(op)(**tensors, **options, backend=backend)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function_of(op)(**tensors, **options, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiles_in_one_graph(kernel):
    op, backend = kernel
    tensors, options, differentiable = make(op)
    leaves = {n: t.requires_grad_(n in differentiable) for n, t in tensors.items()}

    def loss(**arguments):
        result = function_of(op)(**arguments, **options, backend=backend)
        result = result if isinstance(result, tuple) else (result,)
        return sum(t.float().square().sum() for t in result)

    plain, compiled = loss(**leaves), torch.compile(loss, fullgraph=True)(**leaves)
    assert_close([compiled], [plain])
    if differentiable:
        wanted = [leaves[n] for n in differentiable]
        assert_close(torch.autograd.grad(compiled, wanted), torch.autograd.grad(plain, wanted))


def test_autocast_takes_the_narrow_type_for_the_alignment_alone(kernel):
    op, backend = kernel
    if torch.bfloat16 not in op.backend(backend).dtypes:
        pytest.skip("takes no bfloat16 here")
    tensors, options, _ = make(op)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        got = floats(function_of(op)(**tensors, **options, backend=backend))
    dtype = torch.bfloat16 if op.name == "homography_align" else torch.float32
    same, _, _ = make(op, dtype=dtype)
    assert_same_bits(got, floats(function_of(op)(**same, **options, backend=backend)))
    assert all(t.dtype == dtype for t in got)


def test_deterministic_algorithms_give_the_same_bits(kernel, deterministic):
    op, backend = kernel
    arguments = busy(op)
    with may_refuse(op, backend):
        first = results(op, backend, *arguments)
    for _ in range(3):
        assert_same_bits(results(op, backend, *arguments), first)


def test_the_forward_gives_the_same_bits_anyway(kernel):
    op, backend = kernel
    tensors, options, _ = busy(op)
    first = results(op, backend, tensors, options, ())
    for _ in range(3):
        assert_same_bits(results(op, backend, tensors, options, ()), first)


def test_fast_and_deterministic_gradients_agree(kernel):
    op, backend = kernel
    arguments = busy(op)
    fast = results(op, backend, *arguments)
    torch.use_deterministic_algorithms(True)
    try:
        with may_refuse(op, backend):
            slow = results(op, backend, *arguments)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(fast, slow)


def test_using_selects_the_backend(kernel):
    op, backend = kernel
    tensors, options, _ = make(op)
    with CallRecorder() as recorder, vsad.ops.using(backend):
        implicit = results(op, None, tensors, options, ())
    assert [arguments[-1] for _, arguments in recorder.calls] == [backend]
    assert_same_bits(implicit, results(op, backend, tensors, options, ()))


@needs_cuda  # on a CPU the public function reads them, and refuses
def test_neighbors_out_of_range_are_empty_slots(kernel):
    op, backend = kernel
    if op.name != "homography_align":
        pytest.skip("has no neighbors")
    tensors, options, differentiable = make(op)
    options["neighbors"][0, 0] = -1
    expected = results(op, backend, tensors, options, differentiable)
    for beyond in (-2, tensors["key"].shape[1], 2**40):
        options["neighbors"][0, 0] = beyond
        assert_close(results(op, backend, tensors, options, differentiable), expected)
