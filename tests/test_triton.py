"""The Triton kernels where there is no GPU: run by Triton's interpreter, and compiled ahead of time for what ships."""

import os
import subprocess
import sys

import pytest
import torch

from tests.samples import SAMPLES
from tests.test_ops import LAYOUTS, generator, run, within_budget
from vsad.ops._layout import empty_like_layout
from vsad.ops.homography_warp import OP, _HomographyWarp, reference

triton = pytest.importorskip("triton", reason="needs triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # must be set before triton is first imported


def warps():
    """What the interpreter runs: every sample that the kernel takes; each half of the gradients alone."""
    for sample in SAMPLES["homography_warp"]:
        tensors, options = sample.make(generator())
        how = options.get("mode", "bilinear"), options.get("padding", "zeros")
        if OP.backend("triton").why_not(*tensors.values(), *how) is None:
            for layout in LAYOUTS:
                yield sample, torch.float32, layout, False, sample.differentiable
            yield sample, torch.float16, "dense", True, sample.differentiable  # bfloat16 is wrong in the interpreter
    for alone in ("input", "homography"):
        yield SAMPLES["homography_warp"][0], torch.float32, "dense", False, (alone,)


@pytest.mark.parametrize(("sample", "dtype", "layout", "shared", "wanted"), warps() if INTERPRETED else ())
def test_interpreted_warp(sample, dtype, layout, shared, wanted):
    tensors, options = sample.make(generator())
    image, H = tensors["input"].to(dtype), tensors["homography"].float()
    if shared:
        H = H[:1]

    def plain(input, homography):
        return reference(input, homography, options["size"], "bilinear", "zeros")

    def kernel(input, homography):
        return _HomographyWarp.apply(input, homography, options["size"], "bilinear", "zeros", "triton")

    wide = {"input": image.double(), "homography": H.double()}
    exact_result, exact, exact_grads = run(plain, wide, {}, wanted)
    placed = {"input": LAYOUTS[layout](image), "homography": H}
    _, own, own_grads = run(plain, placed, {}, wanted)
    result, got, grads = run(kernel, placed, {}, wanted)
    within_budget("out", got[0], exact[0], own[0], dtype)
    for name, grad in grads.items():
        within_budget(f"grad_{name}", grad, exact_grads[name], own_grads[name], dtype)
    assert torch.equal(result[1], exact_result[1])
    assert result[0].stride() == empty_like_layout(placed["input"], image.shape[1], size=options["size"]).stride()


@pytest.mark.parametrize("layout", LAYOUTS if INTERPRETED else ())
def test_interpreted_warp_passes_opcheck(layout):
    tensors, options = SAMPLES["homography_warp"][0].make(generator())
    image, H, how = LAYOUTS[layout](tensors["input"].float()), tensors["homography"].float(), ("bilinear", "zeros")
    torch.library.opcheck(torch.ops.vsad.homography_warp_fwd.default, (image, H, options["size"], *how, "triton"))
    grad = torch.randn(*image.shape[:2], *options["size"], generator=generator())
    for needs in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(torch.ops.vsad.homography_warp_bwd.default, (grad, image, H, *how, needs, "triton"))


@pytest.mark.skipif(INTERPRETED, reason="is that process")
def test_kernels_match_the_reference_under_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "interpreted_warp"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("number", [0, 20, 50, 60])  # a few; `make gpu-compile` takes all
def test_kernels_compile_for_gpus(number):
    from vsad.bench.gpu_compile import compile_triton
    from vsad.kernels import homography_warp

    assert compile_triton("homography_warp", "90", list(homography_warp.variants())[number]).faults == []
