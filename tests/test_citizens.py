"""How every operator meets the rest of torch: second derivatives, torch.func, compilers, exporters, tracers, modes."""

import asyncio
import copy
import io
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import vsad.ops
from tests.samples import SAMPLES, function_of
from tests.test_ops import floats, generator
from vsad.ops.common.registry import OPERATORS, REFERENCE

TORCH = [pytest.param(op, REFERENCE, id=f"{op.name}-torch") for op in OPERATORS.values()]
KERNELS = [
    pytest.param(op, row.name, id=f"{op.name}-{row.name}")
    for op in OPERATORS.values()
    for row in op.backends
    if row.missing is None and "cpu" in row.devices
]
DIFFERENTIABLE = [row for row in KERNELS if row.values[0].gradients]
each_row = pytest.mark.parametrize(("operator", "backend"), KERNELS + TORCH)
each_kernel = pytest.mark.parametrize(("operator", "backend"), KERNELS)
each_differentiable = pytest.mark.parametrize(("operator", "backend"), DIFFERENTIABLE)


def small_call(operator, dtype=torch.float32, which=0):
    """Leaves that require gradients, the other tensors, and the options of a sample's call."""
    sample = SAMPLES[operator.name][which]
    tensors, options = sample.make(generator())
    tensors = {n: t.to(dtype) for n, t in tensors.items()}
    leaves = {n: tensors.pop(n).requires_grad_() for n in sample.differentiable}
    return leaves, {**tensors, **options}


def outputs(operator, backend, options):
    """The operator as a function of its leaves, with all its tensors as results."""
    if operator.name == "homography_align":
        options = {**options, "return_lse": True}
    if operator.name == "homography_warp":
        options = {**options, "return_mask": True}

    def function(leaves):
        result = function_of(operator)(**leaves, **options, backend=backend)
        return tuple(result) if isinstance(result, tuple) else (result,)

    return function


def loss(operator, backend, options):
    """The sum of squares, which has second derivatives of its own."""
    function = outputs(operator, backend, options)
    return lambda leaves: sum(t.double().square().sum() for t in function(leaves) if t.is_floating_point())


def assert_close(got, expected, tolerance=1e-4):
    got, expected = (torch.utils._pytree.tree_leaves(t) for t in (got, expected))
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        scale = b.abs().amax().item() if b.numel() and b.is_floating_point() else 0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@each_differentiable
def test_second_derivatives_are_those_of_finite_differences(operator, backend):
    if torch.float64 not in operator.backend(backend).dtypes:
        pytest.skip("computes in float32; its second derivatives are compared with the reference's")
    for which in range(3):
        leaves, options = small_call(operator, torch.float64, which)
        names = tuple(leaves)

        def function(*values, names=names, options=options):
            return tuple(floats(outputs(operator, backend, options)(dict(zip(names, values)))))

        assert torch.autograd.gradgradcheck(function, tuple(leaves.values()), fast_mode=True, atol=1e-4)


@each_differentiable
def test_a_gradient_penalty_reaches_every_argument(operator, backend):
    leaves, options = small_call(operator)

    def penalized(name):
        value = loss(operator, name, options)(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
        return torch.autograd.grad(value + sum(g.double().square().sum() for g in grads), list(leaves.values()))

    assert_close(penalized(backend), penalized(REFERENCE), 1e-3)


@each_differentiable
def test_third_derivatives(operator, backend):
    leaves, options = small_call(operator)

    def third(name):
        value = loss(operator, name, options)(leaves)
        for _ in range(3):
            grads = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
            value = sum(g.double().square().sum() for g in grads)
        return value

    assert_close(third(backend), third(REFERENCE), 1e-2)


@each_differentiable
def test_torch_func_takes_gradients(operator, backend):
    leaves, options = small_call(operator)
    plain = {n: t.detach() for n, t in leaves.items()}
    value = loss(operator, backend, options)(leaves)
    expected = torch.autograd.grad(value, list(leaves.values()))
    found = torch.func.grad(loss(operator, backend, options))(plain)
    assert_close([found[n] for n in leaves], expected)
    twice = torch.func.grad(
        lambda x: sum(g.square().sum() for g in torch.func.grad(loss(operator, backend, options))(x).values())
    )
    reference = torch.func.grad(
        lambda x: sum(g.square().sum() for g in torch.func.grad(loss(operator, REFERENCE, options))(x).values())
    )
    assert_close(twice(plain), reference(plain), 1e-3)


@each_row
@pytest.mark.parametrize("batched", ["all", "first"])
def test_vmap_is_a_loop(operator, backend, batched):
    """Over all tensors, which may have no batch of their own, and over the first, which has one."""
    leaves, options = small_call(operator)
    tensors = {n: t.detach() for n, t in leaves.items()}
    tensors |= {n: options.pop(n) for n in [n for n, t in options.items() if isinstance(t, torch.Tensor)]}
    chosen = list(tensors) if batched == "all" else list(tensors)[:1]
    shared = {n: t for n, t in tensors.items() if n not in chosen}
    many = {n: torch.stack([t, t.flip(-1), t.flip(0)]) for n, t in tensors.items() if n in chosen}

    def one(slices):
        return outputs(operator, backend, {**options, **shared})(slices)

    expected = [one({n: t[i] for n, t in many.items()}) for i in range(3)]
    assert_close(torch.vmap(one)(many), [torch.stack(t) for t in zip(*expected)], 1e-5)
    last = {n: t.movedim(0, -1) for n, t in many.items()}
    assert_close(torch.vmap(one, in_dims=-1)(last), [torch.stack(t) for t in zip(*expected)], 1e-5)


@each_differentiable
def test_vmap_takes_gradients_of_each_sample(operator, backend):
    leaves, options = small_call(operator)
    for chosen in ([next(iter(leaves))], list(leaves)):
        shared = {n: t.detach() for n, t in leaves.items() if n not in chosen}
        many = {n: torch.stack([leaves[n].detach(), leaves[n].detach().flip(-1)]) for n in chosen}

        def one(x, shared=shared):
            return loss(operator, backend, options)({**x, **shared})

        found = torch.vmap(torch.func.grad(one))(many)
        expected = [torch.func.grad(one)({n: t[i] for n, t in many.items()}) for i in range(2)]
        assert_close(found, {n: torch.stack([e[n] for e in expected]) for n in many})
        of_shared = torch.vmap(torch.func.grad(lambda s, x: loss(operator, backend, options)({**x, **s})), (None, 0))
        slices = [{n: t[i] for n, t in many.items()} for i in range(2)]
        single = [torch.func.grad(lambda s, x: loss(operator, backend, options)({**x, **s}))(shared, x) for x in slices]
        assert_close(of_shared(shared, many), {n: torch.stack([e[n] for e in single]) for n in shared})


@each_differentiable
def test_forward_mode_is_refused_in_words(operator, backend):
    leaves, options = small_call(operator)
    plain = {n: t.detach() for n, t in leaves.items()}
    with pytest.raises(NotImplementedError, match=f"{operator.name}: forward-mode differentiation .* backend='torch'"):
        torch.func.jvp(outputs(operator, backend, options), (plain,), (plain,))
    with torch.autograd.forward_ad.dual_level():
        duals = {n: torch.autograd.forward_ad.make_dual(t, t) for n, t in plain.items()}
        with pytest.raises(NotImplementedError, match=f"{operator.name}: forward-mode differentiation"):
            outputs(operator, backend, options)(duals)


@each_row
def test_fake_tensors_look_like_real_ones(operator, backend):
    leaves, options = small_call(operator)
    real = outputs(operator, backend, options)(leaves)
    with FakeTensorMode() as mode:
        fakes = {n: mode.from_tensor(t) for n, t in leaves.items()}
        others = {n: mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
        fake = outputs(operator, backend, others)(fakes)
    for a, b in zip(fake, real):
        assert (a.shape, a.dtype, a.device, a.stride()) == (b.shape, b.dtype, b.device, b.stride())


@each_row
def test_make_fx_traces(operator, backend):
    leaves, options = small_call(operator)
    function = outputs(operator, backend, options)
    graph = make_fx(function)({n: t.detach() for n, t in leaves.items()})
    changed = {n: t.detach().flip(-1) for n, t in leaves.items()}
    assert_close(graph(changed), function(changed), 1e-6)


class Model(torch.nn.Module):
    """The operator with its other tensors as buffers."""

    def __init__(self, operator, backend, options, names):
        super().__init__()
        self.names = names
        self.buffer_names = [n for n, t in options.items() if isinstance(t, torch.Tensor)]
        for name in self.buffer_names:
            self.register_buffer(name, options[name])
        self.function = outputs(operator, backend, {n: t for n, t in options.items() if n not in self.buffer_names})

    def forward(self, *values):
        named = dict(zip(self.names, values))
        return self.function({**named, **{n: getattr(self, n) for n in self.buffer_names}})


def exportable(operator, backend):
    leaves, options = small_call(operator)
    if not leaves:
        leaves = {"features": options.pop("features")}
    return Model(operator, backend, options, tuple(leaves)), tuple(t.detach() for t in leaves.values())


@each_kernel
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_programs_can_be_saved(operator, backend, strict):
    model, arguments = exportable(operator, backend)
    program = torch.export.export(model, arguments, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert any("vsad" in str(node.target) for node in loaded.graph.nodes)
    changed = tuple(t.flip(-1) for t in arguments)
    assert_close(loaded.module()(*changed), model(*changed), 1e-6)
    assert_close(program.run_decompositions().module()(*changed), model(*changed), 1e-6)


@each_row
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_works(operator, backend):
    model, arguments = exportable(operator, backend)
    traced = torch.jit.trace(model, arguments)
    changed = tuple(t.flip(-1) for t in arguments)
    assert_close(traced(*changed), model(*changed), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_aot_inductor_runs(operator, tmp_path):
    model, arguments = exportable(operator, None)
    path = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, arguments), package_path=str(tmp_path / "model.pt2")
    )
    assert_close(torch._inductor.aoti_load_package(path)(*arguments), model(*arguments), 1e-6)


ALIASED = {
    "homography_align": lambda x, **o: vsad.ops.homography_align(x, x, x, **o),
    "homography_align k=v": lambda x, **o: vsad.ops.homography_align(2 * x, x, x, **o),
    "homography_align intermediate": lambda x, **o: vsad.ops.homography_align(*[x.relu()] * 3, **o),
    "prototype_distance": lambda x, **o: vsad.ops.prototype_distance(x, x, k=3, **o).distances,
    "homography_warp": lambda x, **o: vsad.ops.homography_warp(x, x[:, 0, :3, :3], **o),
}


@pytest.mark.parametrize("name", ALIASED)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("needs", [True, False], ids=["gradients", "no gradients"])
def test_the_same_tensor_twice_compiles(name, compiler, needs):
    torch._dynamo.reset()
    x = torch.randn(
        (20, 8) if "distance" in name else (2, 1, 6, 7) if "warp" in name else (1, 2, 8, 6, 7), generator=generator()
    )
    options = {"homography": torch.eye(3).repeat(2, 1, 1, 1), "heads": 2} if "align" in name else {}
    x.requires_grad_(needs)
    plain = ALIASED[name](x, **options)
    compiled = torch.compile(ALIASED[name], fullgraph=True, backend=compiler)(x, **options)
    assert_close(compiled, plain, 1e-6)
    if needs:
        assert_close(*(torch.autograd.grad(t.square().sum(), x) for t in (compiled, plain)), 1e-5)


VARYING = {
    "k": lambda n: vsad.ops.prototype_distance(torch.ones(5, 8), torch.ones(40, 8), k=n).indices,
    "size": lambda n: vsad.ops.greedy_coreset(torch.ones(40, 8), n),
    "seed": lambda n: vsad.ops.greedy_coreset(torch.ones(40, 8), 3, seed=n),
    "window": lambda n: vsad.ops.homography_align(
        *[torch.ones(1, 1, 4, 5, 5)] * 3,
        torch.eye(3)[None, None],
        torch.zeros(1, 1, dtype=torch.int64),
        window=2 * n + 1,
    ),
    "height": lambda n: vsad.ops.homography_warp(torch.ones(1, 1, 5, 5), torch.eye(3), (n, 4)),
}


@pytest.mark.parametrize("name", VARYING)
def test_numbers_that_vary_do_not_compile_anew(name):
    torch._dynamo.reset()
    count = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(VARYING[name], fullgraph=True, backend=count)
    for n in range(2, 14):
        assert torch.equal(compiled(n), VARYING[name](n))
    assert count.frame_count <= 3


def test_using_is_guarded_by_compiled_functions():
    torch._dynamo.reset()
    x, H = torch.ones(1, 1, 3, 3), torch.eye(3)
    graphs = []

    def record(graph, _):
        graphs.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=record)
    def warp(x):
        return vsad.ops.homography_warp(x, H)

    @torch.compile(fullgraph=True, backend=record)
    def warp_inside(x):
        with vsad.ops.using("torch"):
            return vsad.ops.homography_warp(x, H)

    def has_kernel(graph):
        return any("vsad" in str(node.target) for node in graph.graph.nodes)

    warp(x)
    with vsad.ops.using("torch"):
        warp(x)
    warp_inside(x)
    warp(x)
    assert [has_kernel(graph) for graph in graphs] == [True, False, False]


def test_using_holds_for_its_thread_and_task_only():
    operator = OPERATORS["greedy_coreset"]
    call = operator.call(torch.ones(3, 2), 2, 0, 0)
    first = operator.choose(call, None)
    seen = {}

    async def inside():
        with vsad.ops.using("torch"):
            await asyncio.sleep(0.02)
            seen["inside"] = operator.choose(call, None)

    async def beside():
        await asyncio.sleep(0.01)
        seen["beside"] = operator.choose(call, None)

    async def both():
        await asyncio.gather(inside(), beside())

    asyncio.run(both())
    with vsad.ops.using("torch"):
        thread = threading.Thread(target=lambda: seen.update(thread=operator.choose(call, None)))
        thread.start()
        thread.join()
    assert seen == {"inside": "torch", "beside": first, "thread": first}


@each_row
def test_autocast_changes_alignment_only(operator, backend):
    leaves, options = small_call(operator)
    expected = outputs(operator, backend, options)(leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs(operator, backend, options)(leaves)
    if operator.name == "homography_align":
        halves = {n: t.bfloat16() if n in ("query", "key", "value") else t for n, t in leaves.items()}
        expected = outputs(operator, backend, options)(halves)
        assert found[0].dtype == torch.bfloat16
    assert_close(found, expected, 0)


@each_row
def test_another_default_device_changes_nothing(operator, backend):
    leaves, options = small_call(operator)

    def results():
        value = outputs(operator, backend, options)(leaves)
        total = sum(t.sum() for t in value if t.requires_grad)
        return value, torch.autograd.grad(total, list(leaves.values()), allow_unused=True) if leaves else ()

    expected = results()
    with torch.device("meta"):
        found = results()
    assert_close(found, expected, 0)


@each_kernel
def test_memory_that_is_not_there_is_not_read(operator, backend):
    leaves, options = small_call(operator)
    named = {**leaves, **{n: t for n, t in options.items() if isinstance(t, torch.Tensor)}}
    for name in named:
        gone = {n: t.detach().clone() for n, t in named.items()}
        gone[name].untyped_storage().resize_(0)
        with pytest.raises(
            (ValueError, RuntimeError), match="has no memory|not allocated|unallocated|out of bounds for storage"
        ):
            outputs(operator, backend, {**options, **gone})({})


@each_kernel
def test_registered_operators_check_what_they_are_given(operator, backend):
    """Their schemas can be called directly, and exported programs with other sizes."""
    leaves, options = small_call(operator)
    forward = getattr(torch.ops.vsad, f"{operator.name}_fwd").default
    seen = []
    original = operator.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(operator), "forward", lambda self, b: lambda call: seen.append(call) or original(b)(call))
        outputs(operator, backend, options)({n: t.detach() for n, t in leaves.items()})
    call = seen[0]
    forward(*call, backend)
    for name, value in zip(call._fields, call):
        if not isinstance(value, torch.Tensor):
            continue
        alone = sum(isinstance(t, torch.Tensor) for t in call) == 1
        for other in (value[None], value.to(torch.int32), *([] if alone else [value.to("meta")])):
            with pytest.raises((ValueError, TypeError, RuntimeError, NotImplementedError)) as raised:
                forward(*call._replace(**{name: other}), backend)
            assert operator.name in str(raised.value)


def test_results_of_nearest_travel():
    near = vsad.ops.prototype_distance(torch.randn(3, 4), torch.randn(9, 4), 2)
    file = io.BytesIO()
    torch.save(near, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, vsad.ops.Nearest)
    assert all(map(torch.equal, loaded, near))
    leaves, spec = torch.utils._pytree.tree_flatten(near)
    assert isinstance(torch.utils._pytree.tree_unflatten(leaves, spec), vsad.ops.Nearest)
    assert isinstance(copy.deepcopy(near), vsad.ops.Nearest)

    class Search(torch.nn.Module):
        def forward(self, x, bank):
            return vsad.ops.prototype_distance(x, bank, 2)

    file = io.BytesIO()
    torch.export.save(torch.export.export(Search(), (torch.randn(3, 4), torch.randn(9, 4))), file)
    file.seek(0)
    assert isinstance(torch.export.load(file).module()(torch.randn(3, 4), torch.randn(9, 4)), vsad.ops.Nearest)
