"""What setup.py compiles for: the GPUs and the instruction sets that are here, or all of them for a release."""

import ctypes
import importlib.util
import os
import types
from pathlib import Path

import pytest
import setuptools

RELEASE = ["80", "86", "89", "90a", "100", "120"]


def library(capabilities):
    """A driver's library that knows these GPUs; None is a machine without one."""
    if capabilities is None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    def count(to):
        to._obj.value = len(capabilities)
        return 0

    def attribute(to, which, device):
        to._obj.value = int(capabilities[device].split(".")[which - 75])
        return 0

    return types.SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGetCount=count, cuDeviceGetAttribute=attribute)


@pytest.fixture
def script(monkeypatch):
    """setup.py as a module."""
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    spec = importlib.util.spec_from_file_location("vsad_setup", Path(__file__).parents[1] / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def architectures(script, monkeypatch, tmp_path):
    """``architectures(capabilities, VSAD_CUDA_ARCHS)`` on a machine whose nvidia-smi lists these capabilities."""
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("VSAD_CUDA", raising=False)

    def program(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def ask(capabilities, wanted=None, driver=None):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: library(driver))
        program("nvcc", "")
        answer = "\\n".join(capabilities)
        program("nvidia-smi", f"printf '{answer}\\n'" if capabilities else "echo no driver; exit 9")
        monkeypatch.delenv("VSAD_CUDA_ARCHS", raising=False)
        if wanted is not None:
            monkeypatch.setenv("VSAD_CUDA_ARCHS", wanted)
        return script.cuda_archs()

    return ask


def test_without_a_gpu_one_architecture_is_compiled_that_newer_gpus_can_run(architectures):
    assert architectures([]) == ["80"]
    assert architectures([], "") == ["80"]


@pytest.mark.parametrize(
    ("capabilities", "archs"),
    [
        (["9.0"], ["90a"]),
        (["8.6", "8.6"], ["86"]),
        (["8.7"], ["86"]),  # its own generation's code runs
        (["12.1"], ["120"]),
        (["10.0", "8.0"], ["80", "100"]),  # the last one's PTX is kept: it must be the newest
        (["7.5", "8.9"], ["89"]),
        (["7.5"], ["80"]),  # no GPU that the kernels run on
    ],
)
def test_the_gpus_that_are_here_are_compiled_for(architectures, capabilities, archs):
    assert architectures(capabilities) == archs
    if capabilities != ["7.5"]:
        assert architectures(capabilities, "native") == archs


def test_the_driver_is_asked_before_nvidia_smi(architectures):
    assert architectures([], driver=["9.0"]) == ["90a"]
    assert architectures(["8.6"], driver=["10.0", "8.0"]) == ["80", "100"]
    assert architectures(["8.6"], driver=[]) == ["86"]


def test_named_architectures_are_taken_whatever_is_here(architectures):
    for capabilities in ([], ["9.0"]):
        assert architectures(capabilities, "release") == RELEASE
        assert architectures(capabilities, "80 90a") == ["80", "90a"]
        assert architectures(capabilities, "86,90") == ["86", "90a"]


def test_the_emulator_has_the_instructions_of_all_architectures(architectures, monkeypatch):
    monkeypatch.setenv("VSAD_CUDA", "emulate")
    assert architectures([]) == RELEASE


def test_what_cannot_be_compiled_for_is_refused_in_words(architectures):
    with pytest.raises(SystemExit, match=r"^VSAD_CUDA_ARCHS=native needs a GPU"):
        architectures([], "native")
    with pytest.raises(SystemExit, match=r"^VSAD_CUDA_ARCHS must be release, native or"):
        architectures([], "sm_80")


@pytest.mark.parametrize(
    ("macros", "sets"),
    [
        ([], ["baseline", "avx2"]),
        (["__AMX_INT8__"], ["baseline", "avx2"]),  # its kernels use AVX-512 too
        (["__AVX512BW__"], ["baseline", "avx2", "avx512"]),
        (["__AVX512BW__", "__AVX512VNNI__"], ["baseline", "avx2", "avx512", "avx512_vnni"]),
        (["__AVX512BW__", "__AVX512VNNI__", "__AMX_INT8__"], ["baseline", "avx2", "avx512", "avx512_vnni", "amx"]),
    ],
)
def test_a_checkout_is_compiled_for_the_instruction_sets_of_this_machine(script, monkeypatch, macros, sets):
    answer = "".join(f"#define {macro} 1\n" for macro in ["__AVX2__", *macros])
    monkeypatch.setattr(
        script.subprocess, "run", lambda *command, **options: types.SimpleNamespace(stdout=answer, returncode=0)
    )
    monkeypatch.setenv("VSAD_ISAS", "native")
    build = script.BuildKernels(setuptools.Distribution())
    build.include_dirs, build.plat_name, build.build_temp = [], "linux-x86_64", "build"
    build.compiler = types.SimpleNamespace(compiler_so=["c++"])
    units, targets = build._cpu_units()
    assert targets == ", ".join(sets)
    module = next(command for _, object_, command in units if "/module/" in object_)
    defined = {f"-DVSAD_{name.upper()}" for name in sets[2:]}
    assert {flag for flag in module if flag.startswith("-DVSAD_A")} == defined


def test_instruction_sets_that_are_not_known_are_refused_in_words(script, monkeypatch):
    monkeypatch.setenv("VSAD_ISAS", "avx2")
    with pytest.raises(SystemExit, match=r"^VSAD_ISAS must be all or native, got 'avx2'"):
        script.BuildKernels(setuptools.Distribution())._left_out()
