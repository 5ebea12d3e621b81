"""Inspects the machine code of the GPU kernels: registers, shared memory, spills, instructions.

    python -m vsad.bench.gpu.compile

Needs no GPU. Reads the CUDA kernels out of ``vsad._cuda`` and compiles every variant of the Triton kernels ahead of
time. Fails where a kernel spills more registers than it may, is longer than MOST_INSTRUCTIONS allows, or lacks an
instruction that it was written for.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .variants import OPERATORS, Variant, variants_of

TRITON_ARCHS = ("80", "90", "100")
# (kernel with its template arguments, architectures, instruction): what the CUDA kernels were written for.
WANTED = (
    (r"coreset::.*coreset_kernel.*", r".*", r"HMMA\.16816\.F32"),
    (r"coreset::.*coreset_kernel.*", r".*", r"LDGSTS\.E\.BYPASS\.128"),
    (r"coreset::.*coreset_kernel.*", r".*", r"REDUX\.MAX"),
    (r"(homography_warp::)?forward::forward_kernel<\w+, \d, (4|8|16)>", r".*", r"LDG\.E\.128"),
    (r"(homography_warp::)?backward::backward_kernel<\w+, \d, (4|8)>", r"(9|1).*", r"REDG\.E\.ADD\.F32x4"),
    (r"homography_align::(?!gather_mma|backward_mma).*_kernel<.*>", r".*", r"LDG\.E\.128"),
    (r"homography_align.*mma_kernel.*", r".*", r"HMMA\.16816\.F32"),
    (r"homography_align.*backward_kernel.*", r"(9|1).*", r"REDG\.E\.ADD\.F32x4"),
    (r"prototype_distance::screen_mma::screen_kernel<0, .*>", r".*", r"HMMA\.16816\.F32\.BF16"),
    (r"prototype_distance::screen_mma::screen_kernel<1, .*>", r".*", r"IMMA\.16832\.S8\.S8"),
    (r"prototype_distance::screen_mma::screen_kernel<.*>", r".*", r"LDGSTS\.E\.BYPASS\.128"),
    (r"prototype_distance::screen_wgmma::screen_kernel<0, .*>", r"90a", r"HGMMA\.64x256x16\.F32\.BF16"),
    (r"prototype_distance::screen_wgmma::screen_kernel<1, .*>", r"90a", r"IGMMA\.64x256x32\.S8\.S8"),
    (r"prototype_distance::screen_wgmma::screen_kernel<.*>", r"90a", r"UTMALDG\.2D"),
)
# (kernel with its template arguments, bytes): what the CUDA kernels may spill. Three registers, once for every slot.
MAY_SPILL = ((r"homography_align::forward_mma::mma_kernel<\w+, 3, 5, 2>", 16),)
# (kernel with its template arguments, architecture, instructions): a tenth more than were counted in the machine code
# of the hot kernels, see docs/gpu.md. Who makes one longer on purpose counts anew.
MOST_INSTRUCTIONS = (
    (r"(homography_warp::)?forward::forward_kernel<bfloat16, 2, 8>", "90a", 750),
    (r"(homography_warp::)?forward::forward_kernel<float, 2, 4>", "90a", 635),
    (r"(homography_warp::)?forward::forward_kernel<float, 2, 1>", "90a", 1075),
)


@dataclass(frozen=True)
class Kernel:
    """One kernel in machine code.

    ``missing`` are the instructions that it should have and has not; ``may_spill`` bytes of its stack are no fault.
    ``too_long`` says how many instructions it has where those are more than it may have.
    """

    name: str
    arch: str
    registers: int
    shared: int
    stack: int
    missing: tuple[str, ...] = ()
    may_spill: int = 0
    too_long: str = ""

    @property
    def faults(self) -> list[str]:
        spills = [f"spills registers ({self.stack} bytes)"] if self.stack > self.may_spill else []
        long = [f"has {self.too_long}"] if self.too_long else []
        return spills + long + [f"lacks {pattern}" for pattern in self.missing]

    def __str__(self) -> str:
        faults = f"   <-- {', '.join(self.faults)}" if self.faults else ""
        return f"{self.arch:>5} {self.registers:>9} {self.shared:>7}  {self.name}{faults}"


def cuobjdump() -> str:
    """The path of CUDA's own tool, or of the one in Triton's package.

    Raises:
        SystemExit: neither is installed.
    """
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        found = shutil.which("cuobjdump", path=str(Path(spec.origin).parent / "backends" / "nvidia" / "bin"))
    if found is None:
        raise SystemExit("gpu.compile needs cuobjdump; install CUDA's toolkit, or triton")
    return found


def disassemble(path: Path, arch: str | None = None) -> Iterator[tuple[str, str, dict[str, int], str]]:
    """Yield ``(name, architecture, resources, machine code)`` of every kernel in a library or cubin."""
    options = ["-arch", f"sm_{arch}"] if arch else []
    usage, code = (
        subprocess.run([cuobjdump(), what, *options, str(path)], capture_output=True, text=True, check=True).stdout
        for what in ("-res-usage", "-sass")
    )
    bodies = dict(part.split("\n", 1) for part in code.split("Function : ")[1:])
    for section in re.split(r"^arch = sm_", usage, flags=re.MULTILINE)[1:] or [f"{arch}\n{usage}"]:
        for name, numbers in re.findall(r"Function (\S+):\s+(REG:.*)", section):
            resources = {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", numbers)}
            yield name, section.split(maxsplit=1)[0], resources, bodies.get(name, "")


def too_long(name: str, arch: str, code: str) -> str:
    """Say it where a kernel has more instructions than MOST_INSTRUCTIONS allows."""
    count = len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?!NOP)\S.*;", code, flags=re.MULTILINE))
    limits = [most for pattern, on, most in MOST_INSTRUCTIONS if on == arch and re.fullmatch(pattern, name)]
    return f"{count} instructions, at most {limits[0]} expected" if limits and count > limits[0] else ""


def readable(names: list[str]) -> list[str]:
    """Demangle to namespaces, file, kernel and template arguments: ``coreset::select::coreset_kernel<float>``."""
    # The compiler's name of an anonymous namespace, which holds the name of the file.
    pattern = r"\d+_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_[0-9a-f]{8}"
    names = [re.sub(pattern, lambda m: f"{len(m[1])}{m[1]}", name) for name in names]
    if shutil.which("c++filt"):
        result = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
        names = result.stdout.splitlines()
    names = [re.sub(r"\(vsad::cuda::[\w:]+\)", "", name) for name in names]  # casts to enumerations
    names = [
        re.sub(r"^void |vsad::cuda::|\(.*$", "", name.replace("(bool)1", "true").replace("(bool)0", "false"))
        for name in names
    ]
    return [re.sub(r"\((int|bool)\)", "", name) for name in names]


def built_module(path: Path | None) -> ModuleType:
    """The ``vsad._cuda`` that is installed, or the one in a file."""
    if path is None:
        from vsad import _cuda

        module: ModuleType = _cuda
    else:
        spec = importlib.util.spec_from_file_location("vsad._cuda", path)
        if spec is None or spec.loader is None:
            raise SystemExit(f"gpu.compile: {path} is no extension module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    if module.EMULATED:
        raise SystemExit("gpu.compile: this vsad._cuda emulates CUDA; build it with VSAD_CUDA=1")
    return module


def cuda_kernels(module: ModuleType, archs: list[str] | None) -> Iterator[Kernel]:
    """Yield every kernel of ``vsad._cuda`` for the given architectures, or for all that it was built for."""
    unmet = {row[0] for row in WANTED}
    for arch in archs or module.ARCHITECTURES.split():
        found = list(disassemble(Path(str(module.__file__)), arch))
        for name, (_, _, resources, code) in zip(readable([name for name, *_ in found]), found):
            rows = [row for row in WANTED if re.match(row[0] + "$", name)]
            wanted = [what for _, on, what in rows if re.match(on + "$", arch)]
            unmet -= {row[0] for row in rows}
            missing = tuple(what for what in wanted if not re.search(what, code))
            may_spill = max((most for kernel, most in MAY_SPILL if re.fullmatch(kernel, name)), default=0)
            usage = (resources["REG"], resources["SHARED"], resources["STACK"])
            yield Kernel(name, arch, *usage, missing, may_spill, too_long(name, arch, code))
    if unmet:
        raise SystemExit(f"gpu.compile: WANTED names kernels that do not exist: {sorted(unmet)}")


def triton_kernels(archs: tuple[str, ...], only: str) -> Iterator[Kernel]:
    """Compile every variant of the Triton kernels for each architecture."""
    jobs = [
        (operator, arch, variant)
        for operator in OPERATORS
        if only in operator
        for arch in archs
        for variant in variants_of(operator, divmod(int(arch), 10))
    ]
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda job: compile_triton(*job), jobs)


def leaves(types: str | tuple, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], str]]:
    """The path and the type of every argument, those in tuples of arguments one by one."""
    if isinstance(types, str):
        yield path, types
        return
    for i, kind in enumerate(types):
        yield from leaves(kind, (*path, i))


def without_alignment(types: str | tuple) -> str | tuple:
    """The types without ``:16``, named tuples as such."""
    if isinstance(types, str):
        return types.removesuffix(":16")
    inner = [without_alignment(kind) for kind in types]
    return type(types)(*inner) if hasattr(types, "_fields") else tuple(inner)


def compile_triton(operator: str, arch: str, variant: Variant) -> Kernel:
    """Compile one variant of an operator's Triton kernels."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, options, wanted, may_spill = variant
    # As in Triton's own tools, a type that ends in ":16" is a pointer or integer divisible by 16.
    types = dict(leaves(tuple(signature.values())))
    aligned = {path: [["tt.divisibility", 16]] for path, kind in types.items() if kind.endswith(":16")}
    signature = {argument: without_alignment(kind) for argument, kind in signature.items()}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", int(arch), 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        ((_, _, resources, code),) = disassemble(cubin)
    text = code + compiled.asm["ptx"]
    missing = tuple(pattern for pattern in wanted if not re.search(pattern, text))
    pointers = "/".join(sorted({t[1:].removesuffix(":16") for t in types.values() if t.startswith("*")}))
    shape = ", ".join(f"{name}={value}" for name, value in constants.items() if isinstance(name, str))
    name = f"{operator}.{kernel.fn.__name__}[{pointers}; {shape}]"
    return Kernel(name, arch, resources["REG"], compiled.metadata.shared, resources["STACK"], missing, may_spill)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("cuda", "triton"), help="one of the two only")
    parser.add_argument("--archs", nargs="+", help="such as 80 90a; else those built, and 80 90 100 for Triton")
    parser.add_argument("--module", type=Path, help="the file of a vsad._cuda that is not the installed one")
    parser.add_argument("--only", default="", help="part of a kernel's name")
    parser.add_argument("--quiet", action="store_true", help="print the faults and the totals only")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    families = []
    if options.family != "triton":
        families.append(cuda_kernels(built_module(options.module), options.archs))
    if options.family != "cuda":
        archs = tuple(arch.rstrip("a") for arch in options.archs or TRITON_ARCHS)
        families.append(triton_kernels(archs, options.only))
    print(f"{'sm_':>5} {'registers':>9} {'shared':>7}  kernel")
    archs_seen: set[str] = set()
    kernels = faulty = 0
    for kernel in itertools.chain(*families):
        if options.only in kernel.name:
            archs_seen.add(kernel.arch)
            kernels += 1
            faulty += bool(kernel.faults)
            if kernel.faults or not options.quiet:
                print(kernel, flush=True)
    print(f"{kernels} kernels for {', '.join(f'sm_{arch}' for arch in sorted(archs_seen))}, {faulty} with faults")
    return 1 if faulty or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
