"""Fixtures, and the matrix: every operator x backend x dtype x sample."""

import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

if "VSAD_EMULATED" in os.environ:  # The folder of the CUDA kernels that run on the CPU; see `make emulate`.
    import vsad

    (_module,) = Path(os.environ["VSAD_EMULATED"], "vsad").glob("_cuda.*.so")
    _spec = importlib.util.spec_from_file_location("vsad._cuda", _module)
    vsad._cuda = sys.modules["vsad._cuda"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(vsad._cuda)

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    import tests.interpreter  # noqa: F401  (makes the interpreter faster)

import vsad.ops
from tests.samples import SAMPLES
from tests.small_station import SHIFT, SIZE, randn
from vsad.geometry import Rig
from vsad.ops.common.registry import OPERATORS

try:
    from vsad import _cpu
except ImportError:  # The tests that choose an instruction set are skipped then.
    _cpu = None


def cuda_device(kernel=""):
    """Where vsad._cuda's kernels run; skips the test where they, or those for Hopper, cannot."""
    from vsad import _cuda

    if _cuda.EMULATED:
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if kernel == "wgmma" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    return "cuda"


WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # The workers share the cores. Tests of several threads ask for them.
    torch.set_num_threads(max(1, torch.get_num_threads() // WORKERS))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # for the processes that tests start

REMEMBERED = [import_module(f"vsad.ops.{op}.registration").LAUNCHES for op in OPERATORS if op != "greedy_coreset"]


@pytest.fixture(autouse=True)
def nothing_is_known():
    """No test is served by the launches of another, whatever their order."""
    for launches in REMEMBERED:
        launches.forget()


LAYOUTS = ("dense", "channels last", "strided")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--calls", type=int, help="how many random calls to make of a backend; 10000 with --slow")
    parser.addoption("--isa", help="the instruction set that the CPU kernels use, where a test does not choose one")


def pytest_configure(config):
    if config.getoption("--isa") is None:
        return
    if _cpu is None:
        raise pytest.UsageError("--isa: needs the compiled CPU kernels")
    try:
        _cpu.set_isa(config.getoption("--isa"))
    except ValueError as error:
        raise pytest.UsageError(f"--isa: {error}") from None


# They take minutes each, and come first: a worker that took one last would keep the other waiting.
LONG = ("test_triton.py", "test_triton_nearest.py", "test_cli.py")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.name not in LONG)
    if config.getoption("--slow") or "slow" in config.getoption("-m"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="is slow; run it with --slow"))


@pytest.fixture(params=_cpu.isas() if _cpu else [])
def isa(request):
    """Every instruction set that this machine runs, in turn."""
    before = _cpu.isa()
    _cpu.set_isa(request.param)
    yield request.param
    _cpu.set_isa(before)


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def shared_data() -> Path:
    """Real photographs that may lie beside a checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared photographs in {folder}")
    return folder


def _slow_when_simulated(i, sample, dtype, layout, dtypes):
    """Whether only ``--slow`` runs this on kernels for GPUs that an emulator or interpreter runs.

    Sample ``i`` is tried in one layout and one dtype, in turn, every other one in float32: arithmetic is float32's.
    """
    layouts = LAYOUTS if sample.images else LAYOUTS[:1]
    halves = [half for half in (torch.float16, torch.bfloat16) if half in dtypes]
    turn = halves[i // 2 % len(halves)] if halves and i % 2 else torch.float32
    return sample.large or layout != layouts[i % len(layouts)] or dtype != turn


def _cases():
    here = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    for op in OPERATORS.values():
        rows = [(row.name, row.devices, row.dtypes) for row in op.backends] + [("torch", here, FLOATS)]
        for backend, devices, dtypes in rows:
            for device in sorted(set(here) & set(devices)):
                simulated = device == "cpu" and backend in ("cuda", "triton")
                tried = [dtype for dtype in dtypes if dtype in FLOATS]  # Bytes have tests of their own.
                if backend == "triton" and device == "cpu":  # The interpreter computes bfloat16 wrongly.
                    tried = [dtype for dtype in tried if dtype != torch.bfloat16]
                for dtype in tried:
                    for i, sample in enumerate(SAMPLES[op.name]):
                        one_layout = not sample.images or (backend == "torch" and dtype != torch.float64)
                        for layout in LAYOUTS[:1] if one_layout else LAYOUTS:
                            name = f"{op.name}-{backend}-{device}-{str(dtype)[6:]}-{sample.id}-{layout}"
                            slow = simulated and _slow_when_simulated(i, sample, dtype, layout, tried)
                            marks = [pytest.mark.slow] if slow else []
                            yield pytest.param((op, backend, device, dtype, layout, sample), id=name, marks=marks)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", list(_cases()))
    if "op" in metafunc.fixturenames:
        metafunc.parametrize("op", list(OPERATORS.values()), ids=list(OPERATORS))


@pytest.fixture(scope="module")
def one_thread():
    """These matrices are too small to share out: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rig():
    """Three views, each 8 pixels (2 latent pixels) to the right of the one before."""
    return Rig.from_pairs(["a", "b", "c"], SIZE, {("a", "b"): SHIFT.inverse(), ("b", "c"): SHIFT.inverse()})


@pytest.fixture(scope="module")
def station(rig):
    """A model, eight normal samples of one product, and one with a blot in two views."""
    from vsad.models import VALDM, tiny  # diffusers takes seconds to import, and is not everywhere
    from vsad.training import learn_latents

    generator = torch.Generator().manual_seed(0)
    scene = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 24, generator=generator), (64, 80), mode="bicubic")[0]

    def shoot(seed, blot=False):
        wide = scene.clone()
        if blot:
            wide[:, 28:36, 36:44] = torch.tensor([0.9, 0.1, 0.9])[:, None, None]
        views = torch.stack([wide[..., 8 * v : 8 * v + 64] for v in range(3)])
        return (views + 0.02 * randn(*views.shape, seed=seed)).clamp(0, 1)

    normal = torch.stack([shoot(i) for i in range(8)])
    torch.manual_seed(0)
    model = VALDM(tiny()).eval()
    latents = learn_latents(model, normal)
    return model, latents, shoot(100), shoot(101, blot=True)
