"""Every sample of an operator on one GPU backend, forward and backward: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python -m tests.gpu_small homography_align cuda

Nothing is compared, and torch does little: the sanitizer slows every kernel down.
"""

import sys

import torch

import vsad.ops  # noqa: F401  (registers the operators)
from tests.samples import SAMPLES
from tests.test_ops import LAYOUTS, generator, run
from vsad.ops._op import OPS

SKIPPED = 77


def main(name, backend, device="cuda"):
    op = OPS[name]
    row = op.backend(backend)
    if not torch.cuda.is_available():
        print("needs a GPU")
        return SKIPPED
    if row.missing:
        torch.zeros(1, device=device)  # the sanitizer takes a process that never starts CUDA for an error
        print(row.missing)
        return SKIPPED
    refused = done = 0
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        for sample in SAMPLES[name]:
            for dtype, layout in ((torch.float32, "strided"), (torch.bfloat16, "channels last")):
                tensors, options = sample.make(generator())
                placed = {
                    n: (LAYOUTS[layout](t.to(dtype)) if n in sample.images else t.to(torch.float32)).to(device)
                    for n, t in tensors.items()
                }
                if not sample.images:
                    placed = {n: t.to(dtype) for n, t in placed.items()}
                options = {n: o.to(device) if isinstance(o, torch.Tensor) else o for n, o in options.items()}
                try:
                    run(lambda **a: op.public(**a, backend=backend), placed, options, sample.differentiable)
                    done += 1
                except RuntimeError as refusal:
                    if not str(refusal).startswith(f"{name}: backend {backend!r}"):
                        raise
                    refused += 1
    torch.cuda.synchronize()
    print(f"{done} calls, {refused} refused")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
