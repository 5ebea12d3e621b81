"""What only the compiled CPU kernels promise: every instruction set, any number of threads, exact ties, lean memory."""

import os
import subprocess
import sys

import pytest
import torch

from tests.samples._sample import homographies

_cpu = pytest.importorskip("vsad._cpu", reason="needs the compiled CPU kernels")
from vsad.ops.homography_align import cpu as align_kernels  # noqa: E402
from vsad.ops.homography_align.call import AlignCall  # noqa: E402
from vsad.ops.prototype_distance import cpu as distance_kernels  # noqa: E402
from vsad.ops.prototype_distance.call import DistanceCall  # noqa: E402


def align_inputs(dtype=torch.float32, window=3, heads=2, slots=2, channels=12):
    g = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, channels, 40, 33, generator=g).to(dtype) for _ in range(3)]
    H = homographies(g, (1, 3, slots), (40, 33), (40, 33)).float()
    neighbors = torch.randint(0, 3, (3, slots), generator=g)
    bias = torch.randn(heads, slots, window, window, generator=g)
    return (*images, H, neighbors, bias), (heads, window, 0.3)


def align(inputs, options):
    call = AlignCall(*inputs, *options, deterministic=False)
    out, peak, log_sum = align_kernels.forward(call)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out, peak, log_sum, *align_kernels.backward(call, (out, peak, log_sum), (grad, None), (True,) * 5)


FORK = """
import os, time, torch
from vsad.ops import homography_align

torch.set_num_threads(2)
feature = torch.randn(1, 2, 64, 64, 32).movedim(-1, 2)
H = torch.eye(3).repeat(2, 1, 1, 1)
before = homography_align(feature, feature, feature, H, heads=4).numpy().tobytes()
child = os.fork()
if child == 0:
    after = homography_align(feature, feature, feature, H, heads=4).numpy().tobytes()
    os._exit(0 if after == before else 1)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    time.sleep(0.01)
os.kill(child, 9)
raise SystemExit("the child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_align():
    """The threads that a process shares with torch are not there in its child."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True)


def test_alignment_in_many_tiles_does_not_depend_on_the_number_of_threads(threads):
    inputs, options = align_inputs(heads=4, channels=64)
    results = []
    for count in (1, 64):
        threads(count)
        results.append(align(inputs, options))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alignment_does_not_depend_on_the_number_of_threads(isa, threads, dtype):
    inputs, options = align_inputs(dtype)
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(align(inputs, options))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_instruction_sets_agree(isa):
    inputs, options = align_inputs()
    got = align(inputs, options)
    _cpu.set_isa("baseline")
    for a, b in zip(got, align(inputs, options)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b[torch.isfinite(b)].abs().max().item())


@pytest.mark.parametrize("mean", [0, 1000])
def test_a_cell_without_rivals_gets_no_logit_gradient(isa, mean):
    """However large its logit: forward and backward find the same bits of it."""
    (query, key, *inputs), options = align_inputs(window=1, slots=1)
    inputs = query + mean, key + mean, *inputs
    _, _, _, grad_query, grad_key, grad_value, _, grad_bias = align(inputs, options)
    assert grad_query.eq(0).all()
    assert grad_key.eq(0).all()
    assert grad_bias.eq(0).all()
    assert grad_value.ne(0).any()


def test_a_bias_of_minus_infinity_masks_everything(isa):
    (*inputs, bias), options = align_inputs()
    out, peak, log_sum, *grads = align((*inputs, torch.full_like(bias, float("-inf"))), options)
    assert out.eq(0).all()
    assert peak.eq(float("-inf")).all()
    assert log_sum.eq(0).all()
    assert all(g.eq(0).all() for g in grads)


@pytest.mark.parametrize("wrong", [3, -2])
def test_neighbors_out_of_range_are_refused(wrong):
    (*images, H, neighbors, bias), options = align_inputs()
    with pytest.raises(ValueError, match=rf"neighbors must lie in \[-1, S=3\), got {wrong}"):
        align_kernels.forward(AlignCall(*images, H, torch.full_like(neighbors, wrong), bias, *options, False))


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_screening_equals_brute_force_bit_for_bit(isa, metric):
    """A single feature is measured against every prototype, more are screened first."""
    g = torch.Generator().manual_seed(0)
    features, bank = torch.randn(64, 40, generator=g) + 3, torch.randn(1500, 40, generator=g) + 3
    bank[700:900] = bank[:200]  # ties
    bank[1000], bank[1001, 3], features[5], features[6, 0] = 0, float("nan"), bank[2], float("nan")
    distances, indices = distance_kernels.forward(DistanceCall(features, bank, None, 3, metric))
    for i in range(64):
        one = distance_kernels.forward(DistanceCall(features[i : i + 1], bank, None, 3, metric))
        assert torch.equal(one[1][0], indices[i])
        assert torch.equal(one[0][0].nan_to_num(-1), distances[i].nan_to_num(-1))


def test_ties_go_to_the_lower_index(isa, threads):
    threads(2)
    bank = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)).repeat(100, 1)
    distances, indices = distance_kernels.forward(DistanceCall(bank[:40], bank, None, 2, "euclidean"))
    assert torch.equal(indices, torch.stack([torch.arange(40) % 10, torch.arange(40) % 10 + 10], 1))
    assert distances.eq(0).all()


def test_unknown_instruction_set():
    with pytest.raises(ValueError, match="set_isa: name must be one this module was built for, got mmx"):
        _cpu.set_isa("mmx")


PEAK = """
import re, sys, torch
from vsad.ops import homography_align

def peak():  # not ru_maxrss: that survives exec, and would begin with what the parent process held
    return int(re.search("VmHWM:.*?([0-9]+) kB", open("/proc/self/status").read())[1]) * 1024

def call(size):
    layout, backend = sys.argv[1:]
    feature = torch.ones(1, 5, size, size, 64).movedim(-1, 2) if layout == "channels last" else (
        torch.ones(1, 5, 64, size, size))
    H = torch.eye(3).repeat(5, 4, 1, 1)
    H[..., 0, 2], H[..., 1, 0] = 3.3, 0.01
    before = peak()
    with torch.no_grad():
        out = homography_align(feature, feature, feature, H, heads=4, backend=backend)
    return peak() - before - out.nbytes

call(4)  # the code and the threads
print(call(128 if sys.argv[2] == "cpu" else 32))
"""


def bytes_beside_output(layout, backend):
    command = [sys.executable, "-c", PEAK, layout, backend]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_alignment_needs_no_more_than_16_mb_beside_its_output(layout):
    """The unfused way writes 4 slots x 9 cells x 21 MB of warped keys, and as much of values."""
    assert bytes_beside_output(layout, "cpu") <= 16e6


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_memory_measurement_sees_what_the_reference_stores():
    """At a sixteenth of the pixels the reference stores 37 logits, exponentials and weights a head: 9 MB."""
    assert bytes_beside_output("contiguous", "torch") > 3 * 37 * 5 * 4 * 32 * 32 * 4
