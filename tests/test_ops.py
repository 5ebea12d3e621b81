"""Every operator on every backend, dtype, layout and sample, against float64 on an error budget."""

import pytest
import torch

import vsad.ops
from tests.samples import ERRORS, SAMPLES, function_of
from vsad.ops.common.backends import _unsupported_gpu, runs_on
from vsad.ops.common.registry import OPERATORS


def amid_nan(t):
    """A view with a stride of 2 in a larger tensor; whoever reads beside it finds NaN."""
    *batch, channels, height, width = t.shape
    buffer = t.new_full((*batch, channels + 2, height + 2, 2 * width + 4), float("nan"))
    view = buffer[..., 1:-1, 1:-1, 2:-2:2]
    return view.copy_(t)


LAYOUTS = {
    "dense": lambda t: t,
    "channels last": lambda t: t.movedim(-3, -1).contiguous().movedim(-1, -3),
    "strided": amid_nan,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def floats(result):
    """The floating point tensors of a result."""
    result = result if isinstance(result, tuple) else (result,)
    return [t for t in result if t.is_floating_point()]


def run(function, tensors, options, differentiable, grads_out=None):
    """Outputs and gradients; the cotangents are drawn from a fixed seed, in float64, when not given."""
    leaves = {n: t.detach().requires_grad_(n in differentiable) for n, t in tensors.items()}
    result = function(**leaves, **options)
    outs = floats(result)
    if grads_out is None:
        grads_out = [torch.randn(o.shape, generator=generator(1), dtype=torch.float64) for o in outs]
    if not differentiable:
        return result, outs, {}
    pairs = [(o, g) for o, g in zip(outs, grads_out) if o.requires_grad]
    wanted = [leaves[n] for n in differentiable]
    if not pairs:
        return result, outs, {n: torch.zeros_like(leaves[n]) for n in differentiable}
    cotangents = [g.to(o) for o, g in pairs]
    grads = torch.autograd.grad([o for o, _ in pairs], wanted, cotangents, allow_unused=True)
    return result, outs, {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(differentiable, grads)}


def within_budget(name, got, exact, plain, dtype):
    """Error at most twice plain torch's own at this dtype, plus rounding of the result itself.

    Plain torch's own error is held to some ten additions' rounding; in float64, where plain torch is the exact
    result, that is the budget.
    """
    assert got.shape == exact.shape, name
    assert got.dtype == plain.dtype, name
    finite = torch.isfinite(exact)
    special = [t.double()[~finite] for t in (got, exact)]
    torch.testing.assert_close(*special, rtol=0, atol=0, equal_nan=True, msg=f"{name}: NaN or infinity differs")
    if not finite.any():
        return
    error, own = ((t.double() - exact)[finite].abs().max() for t in (got, plain))
    scale = exact[finite].abs().max()
    limit = 50 * torch.finfo(dtype).eps * scale
    assert own <= limit, f"{name}: plain torch's error {own:.2e} > {limit:.2e}"
    budget = limit if dtype == torch.float64 else 2 * own + 8 * torch.finfo(got.dtype).eps * scale
    assert error <= budget, f"{name}: error {error:.2e} > budget {budget:.2e}"


def test_matches_reference_in_float64(case):
    op, backend, device, dtype, layout, sample = case
    tensors, options = sample.make(generator())
    if op.name == "homography_align":
        options["return_lse"] = True
    # what the dtype can hold is the input; coordinates and biases stay in the dtype they are computed in
    keep = torch.float64 if dtype == torch.float64 else torch.float32
    rounded = {n: t.to(dtype if n in sample.images or not sample.images else keep) for n, t in tensors.items()}
    exact_in = {n: t.double() for n, t in rounded.items()}
    placed = {n: LAYOUTS[layout](t) if n in sample.images else t for n, t in rounded.items()}
    placed = {n: t.to(device) for n, t in placed.items()}

    def public(name):
        return lambda **arguments: function_of(op)(**arguments, backend=name)

    exact_result, exact, exact_grads = run(public("torch"), exact_in, options, sample.differentiable)
    options = {n: o.to(device) if isinstance(o, torch.Tensor) else o for n, o in options.items()}
    plain_result, plain, plain_grads = run(public("torch"), placed, options, sample.differentiable)
    result, got, grads = plain_result, plain, plain_grads
    if backend != "torch":
        try:
            result, got, grads = run(public(backend), placed, options, sample.differentiable)
        except RuntimeError as refusal:
            if not str(refusal).startswith(f"{op.name}: backend {backend!r}"):
                raise
            pytest.skip(str(refusal))
    for i in range(len(exact)):
        within_budget(f"out[{i}]", got[i].cpu(), exact[i], plain[i].cpu(), dtype)
    for name, grad in grads.items():
        within_budget(f"grad_{name}", grad.cpu(), exact_grads[name], plain_grads[name].cpu(), dtype)
    if op.name == "greedy_coreset":
        assert len(set(result.tolist())) == len(result)
        assert torch.equal(result.cpu(), exact_result)
    if op.name == "prototype_distance":  # indices may differ where distances tie; they must lead to the distances
        from vsad.ops.prototype_distance.reference import distances_at

        reached = distances_at(exact_in["features"], exact_in["prototypes"], result.indices.cpu(), options["metric"])
        within_budget("indices", reached.to(dtype), exact[0], plain[0].cpu(), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_keeps_dtype_and_layout(layout):
    query = LAYOUTS[layout](torch.randn(1, 2, 6, 5, 4))
    out = vsad.ops.homography_align(query, query, query, torch.eye(3).expand(2, 1, 3, 3), heads=2)
    plain = vsad.ops.homography_align(query, query, query, torch.eye(3).expand(2, 1, 3, 3), heads=2, backend="torch")
    assert out.stride() == plain.stride()
    assert (out.stride(2) == 1) == (layout == "channels last")


def _schema_calls(op, backend):
    """Arguments of the operator's registered forward for every sample."""
    for sample in SAMPLES[op.name]:
        tensors, options = sample.make(generator())
        t = {n: x.float() for n, x in tensors.items()}
        if op.name == "homography_align":
            bias = t.get("bias")
            images = t["query"], t["key"], t["value"]
            rest = options["heads"], options["window"], 0.5, False, backend
            yield *images, t["homography"], options["neighbors"], bias, *rest
        elif op.name == "homography_warp":
            ways = options.get("mode", "bilinear"), options.get("padding", "zeros")
            yield t["input"], t["homography"], *options["size"], *ways, False, backend
        elif op.name == "prototype_distance":
            yield t["features"], t["prototypes"], None, options["k"], options["metric"], backend
        elif op.name == "greedy_coreset":
            yield t["features"], options["size"], 0, 0, backend


def test_registered_schemas_pass_opcheck(op):
    backends = [b.name for b in op.backends if "cpu" in b.devices and b.missing is None]
    if op.name == "greedy_coreset":
        backends.append("torch")
    if not backends:
        pytest.skip("has no kernel on this device yet")
    forward = getattr(torch.ops.vsad, f"{op.name}_fwd").default
    for backend in backends:
        for arguments in _schema_calls(op, backend):
            if not any(t.isnan().any() for t in floats(forward(*arguments))):  # opcheck finds NaN unequal to NaN
                torch.library.opcheck(forward, arguments)


def test_compiles_in_one_graph(op):
    sample = SAMPLES[op.name][0]
    tensors, options = sample.make(generator())
    tensors = {n: t.float().requires_grad_(n in sample.differentiable) for n, t in tensors.items()}

    def loss(**arguments):
        result = function_of(op)(**arguments, **options)
        return sum((t.float().square().sum() for t in floats(result)), torch.zeros(()))

    plain = loss(**tensors)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(**tensors)
    torch.testing.assert_close(compiled, plain)
    if sample.differentiable:
        wanted = [tensors[n] for n in sample.differentiable]
        for a, b in zip(torch.autograd.grad(compiled, wanted), torch.autograd.grad(plain, wanted)):
            torch.testing.assert_close(a, b)


def test_no_grad(op):
    sample = SAMPLES[op.name][0]
    tensors, options = sample.make(generator())
    tensors = {n: t.float().requires_grad_(n in sample.differentiable) for n, t in tensors.items()}
    with torch.no_grad():
        for t in floats(function_of(op)(**tensors, **options)):
            assert not t.requires_grad


def test_using_selects_the_backend(op):
    tensors, options = SAMPLES[op.name][0].make(generator())
    explicit = function_of(op)(**tensors, **options, backend="torch")
    with vsad.ops.using("torch"):
        assert op.choose(tuple(tensors.values()), None) == "torch"
        implicit = function_of(op)(**tensors, **options)
    for a, b in zip(floats(explicit), floats(implicit)):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="using: backend must be one of"), vsad.ops.using("abacus"):
        pass


def _backends_with_gradients():
    for op in OPERATORS.values():
        if any(sample.differentiable for sample in SAMPLES[op.name]):
            here = [row.name for row in op.backends if "cpu" in row.devices and torch.float64 in row.dtypes]
            for backend in (*here, "torch"):
                yield pytest.param(op, backend, id=f"{op.name}-{backend}")


@pytest.mark.parametrize(("operator", "backend"), list(_backends_with_gradients()))
def test_gradients_are_those_of_finite_differences(operator, backend):
    for sample in SAMPLES[operator.name][:3]:
        tensors, options = sample.make(generator())
        names = sample.differentiable
        fixed = {n: t for n, t in tensors.items() if n not in names}

        def function(*leaves, names=names, fixed=fixed, options=options):
            result = function_of(operator)(**dict(zip(names, leaves)), **fixed, **options, backend=backend)
            return tuple(floats(result))

        leaves = [tensors[n].requires_grad_() for n in names]
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True, nondet_tol=0)


def _error_cases():
    for name, cases in ERRORS.items():
        for i, case in enumerate(cases):
            yield pytest.param(OPERATORS[name], *case, id=f"{name}-{i}")


@pytest.mark.parametrize(("operator", "arguments", "kind", "message"), list(_error_cases()))
def test_errors_teach(operator, arguments, kind, message):
    with pytest.raises(kind, match=message) as raised:
        function_of(operator)(**arguments())
    assert str(raised.value).startswith(f"{operator.name}: ")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("80 86 89 90a 100 120", (8, 0), True),
        ("80 86 89 90a 100 120", (8, 7), True),  # machine code of 8.6
        ("80 86 89 90a 100 120", (9, 0), True),
        ("80 86 89 90a 100 120", (12, 1), True),
        ("80 86 89 90a 100 120", (13, 0), True),  # PTX
        ("80 86 89 90a 100 120", (7, 5), False),
        ("80", (9, 0), True),
        ("80 90a", (10, 0), False),
        ("90a", (8, 0), False),
        ("90a", (10, 0), False),
        ("86", (8, 0), False),
    ],
)
def test_built_architectures_say_which_gpus_they_run_on(architectures, capability, runs):
    assert runs_on(architectures, capability) == runs


def test_compilers_take_what_a_gpu_supports_for_a_constant():
    def marked():
        """Marked by torch itself."""

    assert vars(torch.compiler.assume_constant_result(marked)) == vars(_unsupported_gpu) != {}
