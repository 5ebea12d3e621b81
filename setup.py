"""Builds ``vsad._cpu``, whose kernels are compiled once per instruction set, and ``vsad._cuda`` where there is nvcc.

Neither module includes or links libtorch. Everything else about the package stands in ``pyproject.toml``.

Environment:
    VSAD_CUDA: 0 leaves ``vsad._cuda`` out, 1 fails without nvcc, ``alone`` builds nothing else; ``emulate`` builds it
        alone too, its kernels running on the CPU, for tests.
    VSAD_CUDA_ARCHS: the GPU architectures to compile for, such as ``"80 90a"``. ``native`` compiles for the GPUs of
        this machine and fails where there is none, ``release`` for every architecture that a wheel serves. Unset, it
        is ``native`` where there are GPUs, else sm_80 and its PTX, which the drivers of newer GPUs compile.
    VSAD_ISAS: ``native`` compiles the CPU kernels for the instruction sets that this machine runs; ``all``, the
        default, for every one, as a wheel needs.
    VSAD_CUDA_CHECK: 1 ends a kernel that waits for seconds on a barrier, where it would otherwise hang.
    VSAD_SANITIZE: 1 ends the process at every bad address and undefined operation.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from itertools import takewhile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

HEADERS = sorted(str(path) for folder in ("csrc", "tests/cuda_on_cpu") for path in Path(folder).rglob("*.h"))
SOURCES = {path.as_posix() for path in Path("csrc").rglob("cpu/*.cpp")}
MODULE = sorted(s for s in SOURCES if s.startswith("csrc/cpu/"))
INT8 = sorted(s for s in SOURCES if s.endswith("/int8.cpp"))  # compiled once per set of INT8_FLAGS
KERNELS = sorted(SOURCES - {*MODULE, *INT8})  # compiled once per set of ISA_FLAGS

# -fopenmp-simd only honors `#pragma omp simd` and needs no runtime. -ffast-math is left out because NaN must propagate.
# -Wno-psabi: no vector type crosses a call, so the warning about its calling convention says nothing.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno"]
FLAGS += ["-pthread", "-Wall", "-Wextra", "-Wno-psabi", "-Icsrc"]
SANITIZE = ["-fsanitize=address", "-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-O1", "-g1"]
SANITIZE = SANITIZE if os.environ.get("VSAD_SANITIZE") == "1" else []
FLAGS += SANITIZE
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
}
INT8_FLAGS = {"avx512_vnni": [*ISA_FLAGS["avx512"], "-mavx512vnni"]}
INT8_FLAGS["amx"] = [*INT8_FLAGS["avx512_vnni"], "-mamx-tile", "-mamx-int8"]  # GCC 9 and 10 lack it: tried first
# The sets that are left out where they do not run, by what a compiler defines where they do.
OPTIONAL = {"avx512": "__AVX512BW__", "avx512_vnni": "__AVX512VNNI__", "amx": "__AMX_INT8__"}

CUDA_SOURCES = sorted(path.as_posix() for path in Path("csrc").rglob("cuda/*.c*"))
# 90a has the warpgroup instructions (wgmma) that 90, and PTX of another architecture, lack.
RELEASE_ARCHS = ["80", "86", "89", "90a", "100", "120"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-DVSAD_ISA=cuda", "-Icsrc", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wno-psabi"]
EMULATE_FLAGS = ["-x", "c++", "-std=c++17", "-DVSAD_ISA=cuda", "-DVSAD_EMULATE", "-Itests/cuda_on_cpu", "-Icsrc"]
EMULATE_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden,-g1,-ffp-contract=off,-Wall,-Wextra"]
# A GPU refuses a misaligned vector access that x86 performs.
EMULATE_FLAGS += ["-Xcompiler=-fsanitize=alignment,-fsanitize-undefined-trap-on-error"]
EMULATE_FLAGS += ["-Xcompiler=-Wno-psabi,-Wno-unknown-pragmas,-Wno-clobbered"]
# Emulated, these sources take longer to compile than to test: -Og halves the one and costs the other little. For the
# other operators, whose tests compute more, -O1 is faster in sum.
QUICK_TO_TEST = ("csrc/cuda/module.cpp", "csrc/homography_align/")
Unit = tuple[str, str, list[str]]  # source, object, the command that compiles it but for -c and -o


def cuda_mode() -> str | None:
    """``build``, ``alone``, ``emulate``, or None: ``vsad._cuda`` is left out."""
    wanted = os.environ.get("VSAD_CUDA", "auto")
    if wanted not in ("auto", "0", "1", "alone", "emulate"):
        raise SystemExit(f"VSAD_CUDA must be 0, 1, alone or emulate, got {wanted!r}")
    if wanted == "0" or (wanted == "auto" and shutil.which("nvcc") is None):
        return None
    if shutil.which("nvcc") is None:
        raise SystemExit(f"VSAD_CUDA={wanted} needs nvcc on the PATH; install CUDA's toolkit, or set VSAD_CUDA=0")
    return wanted if wanted in ("alone", "emulate") else "build"


def gpu_capabilities() -> list[int]:
    """10 * major + minor of every GPU of this machine, according to its driver, or else to nvidia-smi."""
    found = driver_capabilities()
    if found:
        return found
    try:
        ask = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d)\s*$", answer, re.MULTILINE)]


def driver_capabilities() -> list[int]:
    """What the driver's library says; nothing where it is missing or fails."""
    major, minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count, value = ctypes.c_int(), ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return []
        found = []
        for device in range(count.value):
            numbers = []
            for attribute in (major, minor):
                if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
                    return []
                numbers.append(value.value)
            found.append(10 * numbers[0] + numbers[1])
    except (OSError, AttributeError):
        return []
    return found


def native_archs() -> list[str]:
    """For every GPU here the newest released architecture that is not newer than it, oldest first.

    Its machine code runs there, or its PTX does: of the last architecture the module holds PTX too.
    """
    numbers = {int(arch.rstrip("a")): arch for arch in RELEASE_ARCHS}
    found = {max((n for n in numbers if n <= capability), default=0) for capability in gpu_capabilities()}
    return [numbers[n] for n in sorted(found - {0})]


def cuda_archs() -> list[str]:
    wanted = os.environ.get("VSAD_CUDA_ARCHS", "").replace(",", " ").split()
    if wanted == ["release"] or cuda_mode() == "emulate":
        return RELEASE_ARCHS
    if wanted in ([], ["native"]):
        native = native_archs()
        if wanted and not native:
            raise SystemExit("VSAD_CUDA_ARCHS=native needs a GPU of compute capability 8.0 or newer")
        return native or ["80"]
    for arch in wanted:
        if not re.fullmatch(r"\d{2,3}[af]?", arch):
            raise SystemExit(f"VSAD_CUDA_ARCHS must be release, native or architectures such as '80 90a', got {arch!r}")
    return ["90a" if arch == "90" else arch for arch in wanted]


class BuildPackages(build_py):
    """Starts a wheel from nothing: what an earlier build has left in its folder would go into this one."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib, "vsad"), ignore_errors=True)
        super().run()


class BuildKernels(build_ext):
    """Compiles every kernel once per instruction set or architecture, with ninja where there is one."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # An editable install hands out a fresh temporary folder each time; a fixed one keeps its builds incremental.
        self.build_temp = str(Path("build") / f"objects{sysconfig.get_config_var('EXT_SUFFIX')}")

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            self.warn("vsad._cpu needs GCC or Clang and is left out; the torch backend serves instead")
            self.extensions.clear()
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        cuda = ext.name == "vsad._cuda"
        units, targets = self._cuda_units() if cuda else self._cpu_units()
        print(f"{ext.name}: {len(units)} compilations for {targets}", flush=True)
        for _, object_, _ in units:
            Path(object_).parent.mkdir(parents=True, exist_ok=True)
        # Python's own comes first: another version would not know what this one has compiled, and compile it all again.
        ninja = shutil.which("ninja", path=Path(sys.executable).parent) or shutil.which("ninja")
        if ninja:
            self._compile_with_ninja(ninja, ext.name, units)
        else:
            for source, object_, command in units:
                self.spawn([*command, "-c", source, "-o", object_])
        objects = [object_ for _, object_, _ in units]
        module = self.get_ext_fullpath(ext.name)
        Path(module).parent.mkdir(parents=True, exist_ok=True)
        if cuda:
            host = [f"-Xcompiler={flag}" for flag in SANITIZE if flag.startswith("-fsanitize")]
            self.spawn(["nvcc", "-shared", "-cudart", "static", *host, *objects, "-o", module])
        else:
            self.compiler.link_shared_object(objects, module, extra_postargs=["-pthread", *SANITIZE], target_lang="c++")

    def _cuda_units(self) -> tuple[list[Unit], str]:
        archs = cuda_archs()
        targets = ", ".join(f"sm_{arch}" for arch in archs)
        flags = [*self._python_includes(), "-DVSAD_ARCHITECTURES=" + json.dumps(" ".join(archs))]
        if cuda_mode() == "emulate":
            flags += EMULATE_FLAGS + [f"-Xcompiler={','.join(SANITIZE)}"] * bool(SANITIZE)
            folder, targets = Path(self.build_temp, "emulate"), "the emulator on the CPU"
        else:
            flags += CUDA_FLAGS + [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
            if archs[-1].isdigit():
                flags += [f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
                targets += " and PTX"
            check = ["-DVSAD_CUDA_CHECK"] if os.environ.get("VSAD_CUDA_CHECK") == "1" else []
            flags += check
            folder = Path(self.build_temp, "-".join(["cuda", *archs, *(["check"] if check else [])]))
        units = []
        for source in CUDA_SOURCES:
            optimize = "-Og" if source.startswith(QUICK_TO_TEST) else "-O1"
            level = [f"-Xcompiler={optimize}"] if cuda_mode() == "emulate" else []
            units.append((source, str(folder / f"{source}.o"), ["nvcc", *level, *flags]))
        return units, targets

    def _cpu_units(self) -> tuple[list[Unit], str]:
        x86 = self.plat_name.endswith(("x86_64", "amd64"))
        sets = [(isa, flags, KERNELS) for isa, flags in ISA_FLAGS.items() if x86 or not flags]
        sets += [(isa, flags, INT8) for isa, flags in INT8_FLAGS.items() if x86]
        left_out = self._left_out() if x86 else set()
        sets = [(isa, flags, sources) for isa, flags, sources in sets if isa not in left_out]
        defines = [*FLAGS, *(["-DVSAD_X86"] if x86 else [])]
        defines += [f"-DVSAD_{isa.upper()}" for isa, _, _ in sets if isa in OPTIONAL]
        targets = ", ".join(isa for isa, _, _ in sets)
        sets = [(isa, [f"-DVSAD_ISA={isa}", *flags], sources) for isa, flags, sources in sets]
        units = []
        for folder, flags, sources in [("module", self._python_includes(), MODULE), *sets]:
            command = [*self._cxx(), *defines, *flags]
            units += [(source, str(Path(self.build_temp, folder, f"{source}.o")), command) for source in sources]
        return units, targets

    def _left_out(self) -> set[str]:
        """The instruction sets that the compiler lacks, or that are not asked for."""
        wanted = os.environ.get("VSAD_ISAS") or "all"
        if wanted not in ("all", "native"):
            raise SystemExit(f"VSAD_ISAS must be all or native, got {wanted!r}")
        amx = self._compiles("#include <immintrin.h>\nvoid f() { _tile_dpbssd(0, 1, 2); }", INT8_FLAGS["amx"])
        lacking = set() if amx else {"amx"}
        if wanted == "all":
            return lacking
        ask = [*self._cxx(), "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
        answer = subprocess.run(ask, stdout=subprocess.PIPE, text=True)
        if answer.returncode:
            raise SystemExit("VSAD_ISAS=native needs a compiler that knows this processor; set VSAD_ISAS=all")
        macros = answer.stdout.split()
        # each set needs those before it
        return lacking | set(OPTIONAL) - set(takewhile(lambda isa: OPTIONAL[isa] in macros, OPTIONAL))

    def _cxx(self) -> list[str]:
        return getattr(self.compiler, "compiler_so_cxx", self.compiler.compiler_so)  # setuptools before 72 has one

    def _python_includes(self) -> list[str]:
        import pybind11

        return [f"-I{path}" for path in (pybind11.get_include(), *self.include_dirs)]

    def _compiles(self, code: str, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(code)
            command = [*self._cxx(), *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))]
            return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    def _compile_with_ninja(self, ninja: str, name: str, units: list[Unit]) -> None:
        def escape(text: str) -> str:
            return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

        lines = [
            f"builddir = {escape(self.build_temp)}",
            "rule compile",
            "  command = $compiler -MMD -MF $out.d -c $in -o $out",
            "  description = $name",
            "  depfile = $out.d",
            "  deps = gcc",
        ]
        for source, object_, command in units:
            lines.append(f"build {escape(object_)}: compile {escape(source)}")
            lines.append(f"  name = {Path(object_).relative_to(self.build_temp).with_suffix('')}")
            lines.append(f"  compiler = {subprocess.list2cmdline(command).replace('$', '$$')}")
        file = Path(self.build_temp, f"{name}.ninja")
        file.write_text("\n".join(lines) + "\n")
        if subprocess.run([ninja, "-f", str(file)]).returncode:
            needs = "CUDA 12.8 or newer" if name == "vsad._cuda" else "GCC 9 or Clang 10, or newer"
            raise CompileError(f"{name} did not compile; it needs {needs}")


# The source distribution holds what an extension depends on: CUDA's sources too where nvcc is missing.
CPU = Extension("vsad._cpu", [*MODULE, *KERNELS, *INT8], depends=[*HEADERS, *CUDA_SOURCES], language="c++")
CUDA = Extension("vsad._cuda", CUDA_SOURCES, depends=HEADERS, language="c++")
EXTENSIONS = {None: [CPU], "build": [CPU, CUDA], "alone": [CUDA], "emulate": [CUDA]}

setup(ext_modules=EXTENSIONS[cuda_mode()], cmdclass={"build_py": BuildPackages, "build_ext": BuildKernels})
