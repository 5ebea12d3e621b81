"""Ctrl-C ends a long call on the CPU soon; a signal whose handler returns changes nothing."""

import contextlib
import os
import signal
import threading
import time

import pytest
import torch

from vsad.ops import greedy_coreset, homography_align, homography_warp, pack_prototypes, prototype_distance

pytest.importorskip("vsad._cpu", reason="needs the compiled CPU kernels")
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs signals"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="Python handles signals in the main thread"
    ),
]


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def align(backward):
    feature = randn(1, 10, 32, 40, 40).requires_grad_(backward)
    H = torch.eye(3).repeat(10, 9, 1, 1)
    H[..., 0, 2] = 0.4

    def call():
        return homography_align(feature, 1.5 * feature, feature, H, heads=4, window=7, backend="cpu")

    out = call() if backward else None
    return (lambda: torch.autograd.grad(out, feature, out.detach(), retain_graph=True)[0]) if backward else call


def warp(backward):
    image = randn(1, 8, 1000, 1000, dtype=torch.float64).requires_grad_(backward)
    H = torch.tensor([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]])

    def call():
        return homography_warp(image, H, mode="bicubic", backend="cpu")

    out = call() if backward else None
    return (lambda: torch.autograd.grad(out, image, out.detach(), retain_graph=True)[0]) if backward else call


def screened(queries=3000):
    features, bank = randn(queries, 256), randn(30_000, 256)
    return lambda: prototype_distance(features, bank, backend="cpu").indices


def brute_force():
    features, bank = randn(400, 256, dtype=torch.float64), randn(3000, 256, dtype=torch.float64)
    return lambda: prototype_distance(features, bank, 500, backend="cpu").indices


def distance_backward():
    features, bank = randn(3000, 256).requires_grad_(), randn(500, 256).requires_grad_()
    distances = prototype_distance(features, bank, 200, backend="cpu").distances
    return lambda: torch.autograd.grad(distances, bank, distances.detach(), retain_graph=True)[0]


def packing():
    bank = randn(100_000, 128)
    return lambda: pack_prototypes(bank).packed


def coreset():
    features = randn(12_000, 128)
    return lambda: greedy_coreset(features, 4000, backend="cpu")


LONG = {
    "align": lambda: align(False),
    "align backward": lambda: align(True),
    "warp": lambda: warp(False),
    "warp backward": lambda: warp(True),
    "screened distance": screened,
    "distance by brute force": brute_force,
    "distance backward": distance_backward,
    "packing": packing,
    "coreset": coreset,
}


@pytest.fixture(params=LONG)
def long(request, threads):
    """A call, its result, and how long it takes."""
    threads(2)
    call = LONG[request.param]()
    start = time.perf_counter()
    return call, call(), time.perf_counter() - start


class Signal:
    """Sends this process a signal after some seconds, and handles it."""

    def __init__(self, number, handler, seconds):
        self.number, self.handler = number, handler
        self.timer = threading.Timer(seconds, os.kill, (os.getpid(), number))

    def __enter__(self):
        self.before = signal.signal(self.number, self.handler)
        self.timer.start()

    def __exit__(self, *_):
        self.timer.join()
        signal.signal(self.number, self.before)


def test_control_c_ends_a_call_early_and_the_next_call_is_right(long):
    call, expected, seconds = long
    start = time.perf_counter()
    with Signal(signal.SIGINT, signal.default_int_handler, 0.1 * seconds), pytest.raises(KeyboardInterrupt):
        call()
    assert time.perf_counter() - start < 0.2 + 0.5 * seconds
    assert torch.equal(call(), expected)


def test_a_handler_that_returns_changes_nothing(long):
    """Not even one that calls an operator itself."""
    call, expected, seconds = long
    inside, H = randn(1, 2, 30, 40), torch.eye(3)
    seen = []
    handler = lambda *_: seen.append(homography_warp(inside, H, backend="cpu"))  # noqa: E731
    with Signal(signal.SIGUSR1, handler, 0.1 * seconds):
        assert torch.equal(call(), expected)
    assert len(seen) == 1
    assert torch.equal(seen[0], inside)


def test_the_handlers_exception_reaches_the_caller(long):
    call, expected, seconds = long

    def handler(*_):
        raise TimeoutError("enough")

    with Signal(signal.SIGUSR1, handler, 0.1 * seconds), pytest.raises(TimeoutError, match="enough"):
        call()
    assert torch.equal(call(), expected)


@contextlib.contextmanager
def very_many_signals(handler):
    """One every 20 microseconds, after a while."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 2e-5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.01)  # the last signal may still be on its way
        signal.signal(signal.SIGALRM, before)


def test_one_of_very_many_signals_raises(threads):
    """The others arrive while the call looks for signals, and while it is abandoned."""
    threads(2)
    call = screened(30_000)  # looks for signals several times on the fastest processor too
    seen = 0

    def handler(*_):
        nonlocal seen
        seen += 1
        if seen == 6:  # some come at every look
            raise TimeoutError

    for _ in range(5):
        seen = 0
        with very_many_signals(handler), pytest.raises(TimeoutError):
            call()
    assert call().shape == (30_000, 1)


def unequal():
    """A call of two items, one of which takes ten times as long as the other."""
    features, bank = randn(70, 1024).requires_grad_(), randn(10_000, 1024)
    distances = prototype_distance(features, bank, 10_000, backend="cpu").distances
    return lambda: torch.autograd.grad(distances, features, distances.detach(), retain_graph=True)[0]


def test_a_thread_without_work_looks_for_signals(threads):
    threads(2)
    call = unequal()
    call()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    for _ in range(4):
        start = time.perf_counter()
        with Signal(signal.SIGINT, signal.default_int_handler, 0.3 * seconds), pytest.raises(KeyboardInterrupt):
            call()
        assert time.perf_counter() - start < 0.2 + 0.4 * seconds


def test_very_many_signals_do_not_keep_a_thread_waiting(threads):
    threads(2)
    call = unequal()
    expected = call()
    for _ in range(4):
        with very_many_signals(lambda *_: None):
            found = call()
        assert torch.equal(found, expected)


def test_other_threads_go_on(threads):
    """Only the main thread is interrupted; what another thread computes is finished."""
    threads(1)
    call = coreset()
    expected, results = call(), []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    with Signal(signal.SIGINT, signal.default_int_handler, 0.05), pytest.raises(KeyboardInterrupt):
        time.sleep(60)
    thread.join()
    assert torch.equal(results[0], expected)
