"""Every sample of an operator on one GPU backend, forward and backward: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python -m tests.gpu_small homography_align cuda

Nothing is compared, and torch does little: the sanitizer slows every kernel down.
"""

import sys

import torch

import vsad.ops  # noqa: F401  (registers the operators)
from tests.samples import SAMPLES, function_of
from tests.test_ops import LAYOUTS, generator, run
from vsad.ops.common.registry import OPERATORS

SKIPPED = 77


def main(name, backend, device="cuda"):
    op = OPERATORS[name]
    row = op.backend(backend)
    if not torch.cuda.is_available():
        print("needs a GPU")
        return SKIPPED
    if row.missing:
        torch.zeros(1, device=device)  # the sanitizer takes a process that never starts CUDA for an error
        print(row.missing)
        return SKIPPED
    refused = done = 0
    for deterministic, dtype, layout in ((False, torch.float32, "strided"), (True, torch.bfloat16, "channels last")):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        for sample in SAMPLES[name]:
            tensors, options = sample.make(generator())
            narrow = sample.images or tuple(tensors)
            tensors = {n: t.to(dtype if n in narrow else torch.float32) for n, t in tensors.items()}
            tensors = {n: LAYOUTS[layout](t) if n in sample.images else t for n, t in tensors.items()}
            tensors = {n: t.to(device) for n, t in tensors.items()}
            options = {n: o.to(device) if isinstance(o, torch.Tensor) else o for n, o in options.items()}
            try:
                run(lambda **a: function_of(op)(**a, backend=backend), tensors, options, sample.differentiable)
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
