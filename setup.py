"""Builds ``vsad._cpu``: one C++ module whose kernels are compiled once per instruction set.

The module neither includes nor links libtorch. Everything else about the package stands in ``pyproject.toml``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))
SOURCES = {path.as_posix() for path in Path("csrc/cpu").glob("*.cpp")}
MODULE = sorted({"csrc/cpu/module.cpp", "csrc/cpu/parallel.cpp", *(s for s in SOURCES if "/bind_" in s)})
INT8 = sorted(s for s in SOURCES if s.endswith("_int8.cpp"))  # compiled once per set of INT8_FLAGS
KERNELS = sorted(SOURCES - {*MODULE, *INT8})  # compiled once per set of ISA_FLAGS

# -fopenmp-simd only honours `#pragma omp simd`; it needs no runtime. NaN keeps its meaning: no -ffast-math.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno"]
FLAGS += ["-pthread", "-Wall", "-Wextra", "-Wno-psabi", "-Icsrc"]  # psabi: no vector crosses a call
# VSAD_SANITIZE=1 while building, as `make sanitize` does: every bad address and undefined operation ends the process.
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g1"]
SANITIZE = SANITIZE if os.environ.get("VSAD_SANITIZE") == "1" else []
FLAGS += SANITIZE
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
}
INT8_FLAGS = {"avx512_vnni": [*ISA_FLAGS["avx512"], "-mavx512vnni"]}
INT8_FLAGS["amx"] = [*INT8_FLAGS["avx512_vnni"], "-mamx-tile", "-mamx-int8"]  # GCC 9 and 10 lack it: tried first


class BuildKernels(build_ext):
    """Compiles every kernel once per instruction set, with ninja where there is one."""

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
        units = self._units()
        if shutil.which("ninja"):
            self._compile_with_ninja(units)
        else:
            for source, directory, flags in units:
                self.compiler.compile([source], output_dir=directory, extra_postargs=flags)
        objects = [self._object(source, directory) for source, directory, _ in units]
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread", *SANITIZE], target_lang="c++"
        )

    def _units(self) -> list[tuple[str, str, list[str]]]:
        """``(source, object directory, flags)`` of everything that is compiled."""
        import pybind11

        x86 = self.plat_name.endswith(("x86_64", "amd64"))
        isas = list(ISA_FLAGS) if x86 else ["baseline"]
        python = [f"-I{path}" for path in (pybind11.get_include(), *self.include_dirs)]
        defines = [*FLAGS, *(["-DVSAD_X86", "-DVSAD_INT8"] if x86 else [])]
        sets = [(isa, ISA_FLAGS[isa], KERNELS) for isa in isas]
        if x86:
            amx = self._compiles("#include <immintrin.h>\nvoid f() { _tile_dpbssd(0, 1, 2); }", INT8_FLAGS["amx"])
            defines += ["-DVSAD_AMX"] if amx else []
            sets += [(isa, flags, INT8) for isa, flags in INT8_FLAGS.items() if amx or isa != "amx"]
        units = [(source, str(Path(self.build_temp, "module")), [*defines, *python]) for source in MODULE]
        for isa, flags, sources in sets:
            flags = [*defines, f"-DVSAD_ISA={isa}", *flags]
            units += [(source, str(Path(self.build_temp, isa)), flags) for source in sources]
        return units

    def _compiles(self, code: str, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(code)
            command = [*self.compiler.compiler_so_cxx, *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))]
            return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    def _object(self, source: str, directory: str) -> str:
        return self.compiler.object_filenames([source], output_dir=directory)[0]

    def _compile_with_ninja(self, units: list[tuple[str, str, list[str]]]) -> None:
        def escape(text: str) -> str:
            return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

        compiler = subprocess.list2cmdline(self.compiler.compiler_so_cxx).replace("$", "$$")
        lines = [
            f"builddir = {escape(self.build_temp)}",
            "rule compile",
            f"  command = {compiler} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]
        for source, directory, flags in units:
            lines.append(f"build {escape(self._object(source, directory))}: compile {escape(source)}")
            lines.append(f"  flags = {subprocess.list2cmdline(flags).replace('$', '$$')}")
        file = Path(self.build_temp, "build.ninja")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
        if subprocess.run(["ninja", "-f", str(file)]).returncode:
            raise CompileError("vsad._cpu did not compile; it needs GCC 9 or Clang 10, or newer")


setup(
    ext_modules=[Extension("vsad._cpu", [*MODULE, *KERNELS, *INT8], depends=HEADERS, language="c++")],
    cmdclass={"build_ext": BuildKernels},
)
