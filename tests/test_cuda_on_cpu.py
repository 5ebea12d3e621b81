"""The emulator that runs the CUDA kernels' tests without a GPU: is it right about CUDA?"""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "cuda_on_cpu"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_emulator_keeps_cudas_promises(tmp_path):
    program = tmp_path / "selftest"
    compiler = ["nvcc", "-x", "c++", "-std=c++17", "-Xcompiler=-O1,-Wno-clobbered", "-DVSAD_EMULATE", f"-I{HERE}"]
    subprocess.run([*compiler, str(HERE / "selftest.cpp"), "-o", str(program)], check=True)
    for order in ("forward", "reverse", "3"):
        run = subprocess.run([program], env={"VSAD_EMULATOR_ORDER": order}, capture_output=True, text=True)
        assert run.returncode == 0, f"{order}: {run.stdout}{run.stderr}"
        assert run.stdout.count("ok: ") == 9
