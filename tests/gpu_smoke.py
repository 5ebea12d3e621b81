"""One family of CUDA kernels on small problems against float64: the first thing to know on a new GPU.

    python -m tests.gpu_smoke wgmma-both-pair-resident

A process for each, because a kernel that hangs or breaks the GPU's context takes the process with it.
"""

import importlib
import os
import sys

import pytest
import torch

from tests.conftest import cuda_device  # which also puts emulated kernels in place
from tests.samples._sample import homographies
from vsad import ops
from vsad.ops.prototype_distance.call import DistanceCall

SKIPPED = 77
TOLERANCES = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # of the largest value
HEAD_WIDTHS = (16, 32, 40, 64, 80, 160)


def generator():
    return torch.Generator().manual_seed(0)


def share_of_tolerance(got, expected, dtype):
    """The largest error over what is allowed; NaN is infinite."""
    error = (got.double() - expected).abs().max() / expected.abs().max()
    return float("inf") if error.isnan() else float(error) / TOLERANCES[dtype]


def solve(function, tensors, wanted):
    """The result, and the gradients of the tensors named in ``wanted`` for a fixed cotangent."""
    leaves = {name: t.detach().requires_grad_(name in wanted) for name, t in tensors.items()}
    result = function(**leaves)
    if not wanted:
        return [result]
    cotangent = torch.randn(result.shape, generator=generator()).to(result)
    return [result.detach(), *torch.autograd.grad(result, [leaves[name] for name in wanted], cotangent)]


def against_float64(function, tensors, dtype, wanted=()):
    """``function(backend=..., **tensors)`` on the GPU in ``dtype``, and by the definition in float64."""
    narrow = {n: t.to(torch.float32 if n in ("homography", "bias") else dtype) for n, t in tensors.items()}
    expected = solve(lambda **t: function(backend="torch", **t), {n: t.double() for n, t in narrow.items()}, wanted)
    got = solve(lambda **t: function(backend="cuda", **t), {n: t.to(cuda_device()) for n, t in narrow.items()}, wanted)
    return max(share_of_tolerance(a.cpu(), b, dtype) for a, b in zip(got, expected))


def warp(dtype, wanted=(), modes=("nearest", "bilinear", "bicubic")):
    worst = 0.0
    for B, C, H, W in ((3, 64, 33, 40), (2, 3, 50, 70)):
        for mode in modes:
            image = torch.randn(B, C, H, W, generator=generator())
            image = image.contiguous(memory_format=torch.channels_last) if C > 3 else image
            turns = homographies(generator(), (B,), (H, W), (H, W))
            # A rounded coordinate may choose another nearest pixel: there, nothing is turned.
            turns = torch.eye(3).expand(B, 3, 3) if mode == "nearest" else turns
            tensors = {"input": image, "homography": turns}

            def function(backend, mode=mode, **t):
                return ops.homography_warp(**t, mode=mode, backend=backend)

            worst = max(worst, against_float64(function, tensors, dtype, wanted))
    return worst


def align(dtype, width, window, wanted=()):
    B, V, N, heads, H, W = 2, 3, 2, 2, 21, 27
    g = generator()
    images = {n: torch.randn(B, V, H, W, heads * width, generator=g).movedim(-1, 2) for n in ("query", "key", "value")}
    turns, bias = homographies(g, (V, N), (H, W), (H, W)), torch.randn(heads, N, window, window, generator=g)
    tensors = {**images, "homography": turns, "bias": bias}

    def function(backend, **t):
        return ops.homography_align(**t, heads=heads, window=window, backend=backend)

    return against_float64(function, tensors, dtype, wanted)


def deterministic(dtype, width, window):
    torch.use_deterministic_algorithms(True)
    return align(dtype, width, window, ("query", "key", "value", "homography", "bias"))


def distance(screen, formats, M=300, C=96, k=3, P=3000):
    cuda = importlib.import_module("vsad.ops.prototype_distance.cuda")
    g = generator()
    features, bank = torch.randn(M, C, generator=g), torch.randn(P, C, generator=g)
    call = DistanceCall(features.to(cuda_device()), bank.to(cuda_device()), None, k, "euclidean")
    distances, indices, _ = cuda.screened_search(call, screen, formats)
    expected = torch.cdist(features.double(), bank.double()).sort(-1)
    if not torch.equal(indices.cpu(), expected.indices[:, :k]):
        return float("inf")
    return share_of_tolerance(distances.cpu(), expected.values[:, :k], torch.float32)


def coreset():
    points = torch.randn(3000, 64, generator=generator())
    got = ops.greedy_coreset(points.to(cuda_device()), 200, start=0, backend="cuda").cpu()
    return 0.0 if torch.equal(got, ops.greedy_coreset(points.double(), 200, start=0, backend="torch")) else 1e9


def families():
    """Every family's function by its name, the simplest of an operator first."""
    gradients = ("query", "key", "value", "homography", "bias")
    rows = {"warp": lambda: max(warp(dtype) for dtype in TOLERANCES)}
    rows["warp-backward"] = lambda: warp(torch.float32, ("input", "homography"), ("bilinear", "bicubic"))
    rows["warp-backward-half"] = lambda: warp(torch.bfloat16, ("input",))
    rows["align-plain"] = lambda: max(align(torch.float32, 24, window) for window in (1, 3, 5, 7))
    for width in HEAD_WIDTHS:
        rows[f"align-tensor-cores-{width}"] = lambda width=width: max(
            align(dtype, width, window) for window in (3, 5) for dtype in (torch.float16, torch.bfloat16)
        )
    rows["align-backward"] = lambda: max(align(torch.float32, 24, window, gradients) for window in (3, 5))
    rows["align-backward-half"] = lambda: max(
        align(torch.bfloat16, width, window, gradients) for width in (16, 32, 40, 64) for window in (3, 5)
    )
    rows["align-gather"] = lambda: max(deterministic(dtype, 40, 3) for dtype in (torch.float32, torch.bfloat16))
    rows["distance-brute-force"] = lambda: distance("none", "bfloat16")
    for screen in ("mma", "wgmma"):
        for formats in ("bfloat16", "int8", "both"):
            rows[f"distance-{screen}-{formats}"] = lambda s=screen, f=formats: distance(s, f)
    # Layouts of the Hopper kernel: one block or a pair that shares copies; rows that stay in shared memory or do not.
    rows["distance-wgmma-single"] = lambda: max(distance("wgmma", f, M=100) for f in ("bfloat16", "int8"))
    rows["distance-wgmma-long-rows"] = lambda: max(
        distance("wgmma", f, M=M, C=1536) for f in ("bfloat16", "int8") for M in (100, 300)
    )
    rows["distance-wgmma-many"] = lambda: distance("wgmma", "bfloat16", M=20_000, C=512, k=1, P=20_000)
    rows["coreset"] = coreset
    return rows


def main(name):
    try:
        device = cuda_device("wgmma" if "wgmma" in name else "")
    except pytest.skip.Exception as reason:
        print(reason)
        return SKIPPED
    worst = families()[name]()
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"largest error: {worst:.3g} of what is allowed", flush=True)
    return int(not worst <= 1)


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))  # Interpreters that end while torch's autograd still has threads have aborted.
