"""Every operator under compilers, exporters, tracers and fake tensors, and what ``using`` means to them."""

import asyncio
import io
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import vsad.ops
from tests.small_calls import assert_close, each_kernel, each_row, outputs, small_call
from tests.test_ops import generator
from vsad.ops.common.registry import OPERATORS


@each_row
def test_fake_tensors_look_like_real_ones(operator, backend):
    leaves, options = small_call(operator, backend)
    real = outputs(operator, backend, options)(leaves)
    with FakeTensorMode() as mode:
        fakes = {n: mode.from_tensor(t) for n, t in leaves.items()}
        others = {n: mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
        fake = outputs(operator, backend, others)(fakes)
    for a, b in zip(fake, real):
        assert (a.shape, a.dtype, a.device, a.stride()) == (b.shape, b.dtype, b.device, b.stride())


@each_kernel
def test_make_fx_traces(operator, backend):
    leaves, options = small_call(operator, backend)
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
    leaves, options = small_call(operator, backend)
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


@each_kernel
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
