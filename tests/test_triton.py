"""The Triton kernels where there is no GPU: run by Triton's interpreter, and compiled ahead of time for what ships."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vsad.kernels
from tests.samples import SAMPLES, function_of
from tests.test_ops import LAYOUTS, _schema_calls, floats, generator, run, within_budget
from vsad.bench.gpu import variants
from vsad.bench.gpu.compile import compile_triton
from vsad.ops.common.registry import OPERATORS

pytest.importorskip("triton", reason="needs triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # must be set before triton is first imported
KERNELS = Path(vsad.kernels.__path__[0])
HERE = [OPERATORS[folder.name] for folder in sorted(KERNELS.iterdir()) if folder.name in OPERATORS]
NAMES = [op.name for op in HERE]


def triton_row(op, tensors, options):
    """A call of the public function on the Triton backend; skips where that refuses."""
    try:
        return function_of(op)(**tensors, **options, backend="triton")
    except RuntimeError as refusal:
        if f"{op.name}: backend 'triton'" not in str(refusal):
            raise
        pytest.skip(str(refusal))


def first(op):
    sample = SAMPLES[op.name][0]
    tensors, options = sample.make(generator())
    if op.name == "homography_align":
        options["return_lse"] = True
    return sample, {n: t.float() for n, t in tensors.items()}, options


def small_call(op):
    """Arguments of the registered forward: opcheck makes many calls."""
    calls = [call for call in _schema_calls(op, "triton") if call[0].numel()]
    return min(calls, key=lambda call: call[0].numel()) if op.name == "homography_align" else calls[0]


def alone():
    """Every gradient; without --slow, every other one."""
    for op in HERE:
        for i, name in enumerate(SAMPLES[op.name][0].differentiable):
            yield pytest.param(op, name, id=f"{op.name}-{name}", marks=[pytest.mark.slow] if i % 2 else [])


@pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
@pytest.mark.parametrize(("operator", "name"), list(alone()))
def test_interpreted_gradient_alone(operator, name):
    """One gradient asked for, of one output where there are two: the kernel leaves the others out."""
    _, tensors, options = first(operator)

    def function(backend):
        return lambda **arguments: floats(function_of(operator)(**arguments, **options, backend=backend))[0]

    triton_row(operator, tensors, options)
    _, _, exact = run(function("torch"), {n: t.double() for n, t in tensors.items()}, {}, (name,))
    _, _, plain = run(function("torch"), tensors, {}, (name,))
    _, _, grads = run(function("triton"), tensors, {}, (name,))
    within_budget(name, grads[name], exact[name], plain[name], torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
@pytest.mark.parametrize("operator", HERE, ids=NAMES)
def test_interpreted_results_keep_layout_and_masks(operator):
    sample, tensors, options = first(operator)
    options |= {"return_mask": True} if operator.name == "homography_warp" else {}
    for layout in LAYOUTS if sample.images else ():
        placed = {n: LAYOUTS[layout](t) if n in sample.images else t for n, t in tensors.items()}
        got = triton_row(operator, placed, options)
        plain = function_of(operator)(**placed, **options, backend="torch")
        for a, b in zip(got, plain):
            assert a.is_floating_point() or torch.equal(a, b)
        assert (got[0].stride(-3) == 1) == (layout == "channels last")


@pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
@pytest.mark.parametrize("operator", HERE, ids=NAMES)
def test_interpreted_schemas_pass_opcheck(operator):
    _, tensors, options = first(operator)
    triton_row(operator, tensors, options)
    forward = getattr(torch.ops.vsad, f"{operator.name}_fwd").default
    torch.library.opcheck(forward, small_call(operator))


def backward_calls(op):
    """Arguments of the registered backward, all gradients wanted and some of them."""
    *fields, backend = small_call(op)
    outs = dict(zip(op.outputs, getattr(torch.ops.vsad, f"{op.name}_fwd").default(*fields, backend)))
    call, arguments = op.call(*fields), op.gradients.arguments
    some = [name not in ("query", "homography", "bias") for name in arguments]
    for needs in ([True] * len(arguments), some):
        call = call._replace(deterministic=needs is some)
        saved = [outs[name] for name in op.gradients.saved]
        grads = [torch.randn_like(outs[name]) for name in op.gradients.outputs]
        yield *call, *saved, *grads, needs, backend


@pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
@pytest.mark.parametrize("operator", [op for op in HERE if op.name.startswith("homography")], ids=lambda op: op.name)
def test_interpreted_backwards_pass_opcheck(operator):
    for arguments in backward_calls(operator):
        torch.library.opcheck(getattr(torch.ops.vsad, f"{operator.name}_bwd").default, arguments)


@pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
@pytest.mark.parametrize("id", ["no bias", "small horizon"])
def test_interpreted_align_sums_integers_where_runs_must_agree(id):
    """The same gradients within the budget, from sums that no order can change."""
    op = OPERATORS["homography_align"]
    (sample,) = (s for s in SAMPLES[op.name] if s.id == id)
    tensors, options = sample.make(generator())
    tensors = {n: t.float() for n, t in tensors.items()}
    wanted = ("key", "value")
    doubles = {n: t.double() for n, t in tensors.items()}
    _, _, exact = run(function_of(op), doubles, {**options, "backend": "torch"}, wanted)
    _, _, plain = run(function_of(op), tensors, {**options, "backend": "torch"}, wanted)
    _, _, grads = run(function_of(op), tensors, {**options, "backend": "triton", "deterministic": True}, wanted)
    for name in wanted:
        within_budget(name, grads[name], exact[name], plain[name], torch.float32)


@pytest.mark.skipif(INTERPRETED, reason="is that process")
def test_kernels_match_the_reference_under_the_interpreter(request):
    """The matrix of all rows, in a process of its own: what the interpreter needs is set before triton's import.

    Without bfloat16, which the interpreter computes wrongly.
    """
    rows = [f"{name}-triton-cpu-{dtype}" for name in NAMES for dtype in ("float32", "float16")]
    selected = " or ".join([*rows, "interpreted", "repeatable", "bytes", "(derivatives and triton)"])
    files = (
        "tests/test_ops.py",
        "tests/test_homography_align.py",
        "tests/test_homography_warp.py",
        "tests/test_derivatives.py",
        __file__,
    )
    slow = ["--slow"] if request.config.getoption("--slow") else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *slow, *files, "-k", selected],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def shipped():
    """Every variant for sm_90; without --slow, the first of each kernel."""
    seen = set()
    for operator in () if INTERPRETED else variants.OPERATORS:
        for i, variant in enumerate(variants.variants_of(operator, (9, 0))):
            marks = [pytest.mark.slow] if variant.kernel in seen else []
            seen.add(variant.kernel)
            yield pytest.param(operator, variant, marks=marks, id=f"{operator}-{variant.kernel.__name__}-{i}")


@pytest.mark.parametrize(("operator", "variant"), list(shipped()))
def test_kernels_compile_for_gpus(operator, variant):
    kernel = compile_triton(operator, "90", variant)
    assert not kernel.faults, kernel
    assert 0 < kernel.registers <= 255
