"""Tensors of more than 2^31 elements: offsets need 64 bits. Skipped without --slow.

Four gigabytes are reserved at a time, and all but what a kernel reads left untouched: they never become memory.
"""

import pytest
import torch

import vsad.ops
from vsad.ops.common.registry import OPERATORS

pytestmark = pytest.mark.slow
BEYOND = 2**31  # elements


def far_apart(t, dim=0):
    """``t`` with so large a stride along ``dim`` that its last slice lies beyond 2^31 elements."""
    rest = t.movedim(dim, 0)[0]
    stride = BEYOND // (t.shape[dim] - 1) + 64
    storage = t.new_empty(stride * (t.shape[dim] - 1) + rest.numel())
    strides = list(rest.contiguous().stride())
    strides.insert(dim, stride)
    view = storage.as_strided(t.shape, strides)
    assert view.stride(dim) * (view.shape[dim] - 1) >= BEYOND
    return view.copy_(t)


def needs_kernel(name):
    if not any("cpu" in row.devices and row.missing is None for row in OPERATORS[name].backends):
        pytest.skip("has no kernel on this device yet")


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).bfloat16()


def test_homography_align():
    needs_kernel("homography_align")
    query, key, value = randn(1, 3, 8, 6, 7), randn(1, 3, 8, 6, 7), randn(1, 3, 8, 6, 7)
    H = torch.eye(3).repeat(3, 2, 1, 1)
    expected = vsad.ops.homography_align(query, key, value, H, backend="cpu")
    for dim in (1, 2, 3, 4):
        got = vsad.ops.homography_align(query, far_apart(key, dim), value, H, backend="cpu")
        assert torch.equal(got, expected)
    assert torch.equal(vsad.ops.homography_align(far_apart(query, 1), key, value, H, backend="cpu"), expected)


def test_homography_warp():
    needs_kernel("homography_warp")
    image, H = randn(2, 3, 6, 7), torch.eye(3)
    expected = vsad.ops.homography_warp(image, H, backend="cpu")
    for dim in range(4):
        assert torch.equal(vsad.ops.homography_warp(far_apart(image, dim), H, backend="cpu"), expected)


def test_prototype_distance():
    needs_kernel("prototype_distance")
    features, bank = randn(40, 24), randn(600, 24)
    expected = vsad.ops.prototype_distance(features, bank, 3, backend="cpu")
    for dim in (0, 1):
        for f, p in ((far_apart(features, dim), bank), (features, far_apart(bank, dim))):
            got = vsad.ops.prototype_distance(f, p, 3, backend="cpu")
            assert torch.equal(got.indices, expected.indices)
            assert torch.equal(got.distances, expected.distances)


def test_greedy_coreset():
    needs_kernel("greedy_coreset")
    features = randn(2000, 24)
    expected = vsad.ops.greedy_coreset(features, 600, start=0, backend="cpu")
    for dim in (0, 1):
        assert torch.equal(vsad.ops.greedy_coreset(far_apart(features, dim), 600, start=0, backend="cpu"), expected)
