"""The script that compute-sanitizer watches, as far as it can be tried without a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from tests import gpu_small
from tests.samples import SAMPLES
from vsad.bench.gpu.parts import ROOT


def test_the_small_shapes_script_says_why_it_cannot_run():
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu_small", "greedy_coreset", "triton"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 77
    assert done.stdout.strip() == "needs a GPU"


def test_the_small_shapes_script_calls_every_sample(op, capsys):
    """On the CPU kernels, as there is no GPU here."""
    if op.backend("cpu").missing:
        pytest.skip("needs vsad._cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_small.torch.cuda, "is_available", lambda: True)
        patch.setattr(gpu_small.torch.cuda, "synchronize", lambda: None)
        try:
            assert gpu_small.main(op.name, "cpu", "cpu") == 0
        finally:
            torch.use_deterministic_algorithms(False)
    assert capsys.readouterr().out == f"{2 * len(SAMPLES[op.name])} calls, 0 refused\n"
