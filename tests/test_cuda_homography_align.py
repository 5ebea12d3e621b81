"""What the CUDA kernels of homography_align promise beyond the matrix of test_ops.py; on a GPU, or emulated."""

import importlib
import itertools

import pytest
import torch

from tests.samples import function_of
from tests.simulated import in_turn
from vsad.ops.common.registry import OPERATORS
from vsad.ops.homography_align.call import AlignCall

OP = OPERATORS["homography_align"]
ROW = OP.backend("cuda")
DEVICE = ROW.devices[0]
pytestmark = [
    pytest.mark.skipif(ROW.missing is not None, reason=str(ROW.missing)),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
]
ORDERS = ("reverse", "1")  # orders of the emulated threads and blocks; a GPU has its own
NAMES = ("query", "key", "value", "homography", "bias")


def about_centers(matrix, target, source):
    """A homography that takes the target's center to the source's, ``matrix`` in between."""
    (h, w), (hs, ws) = target, source
    to, back = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    to[:2, 2] = -torch.tensor([w - 1, h - 1]) / 2
    back[:2, 2] = torch.tensor([ws - 1, hs - 1]) / 2
    return back @ torch.tensor(matrix, dtype=torch.float64) @ to


TURN = [[0.7, -0.7, 0.3], [0.7, 0.7, -0.2], [0, 0, 1]]
CASES = {
    # target, source, matrix about the centers, sizes
    "turned": ((11, 12), (10, 13), TURN, {}),
    "mirrored": ((9, 10), (11, 8), [[-1.1, 0.1, 0], [0, 0.9, 0], [0, 0, 1]], {}),
    "perspective": ((12, 12), (12, 12), [[1, 0.1, 0], [0, 1, 0], [0.05, -0.08, 1]], {}),
    "many pixels to few": ((17, 18), (9, 7), [[0.3, 0, 0], [0, 0.3, 0], [0, 0, 1]], {"V": 1}),
    "few pixels among many": ((8, 9), (36, 34), [[4.3, 0, 0], [0, 4.1, 0], [0, 0, 1]], {"V": 1}),
    "many tiles": (
        (130, 130),
        (11, 10),
        [[0.08, 0, 0], [0, 0.08, 0], [0, 0, 1]],
        {"V": 1, "C": 4, "Cv": 4, "heads": 1, "window": 1},
    ),
    "wide": ((5, 9), (7, 8), TURN, {"C": 404, "Cv": 520, "heads": 2, "V": 1}),
    "window 7": ((10, 7), (14, 12), TURN, {"window": 7, "V": 1}),
}
ONE_HEAD = {"V": 1, "C": 16, "heads": 1, "noise": 1e-5}  # which tensor cores take in float16 / bfloat16
# A gather looks for target tiles group by group: groups of 32 x 32 pixels on tensor cores, else of 64 x 64.
GROUPS = {
    "near the identity": ((70, 41), (70, 41), [[1.01, 0.02, 0], [-0.02, 1, 0.3], [0, 0, 1]], ONE_HEAD),
    "a quarter turn": ((41, 70), (70, 41), [[0.02, -1, 0.4], [1, 0.01, -0.3], [0, 0, 1]], ONE_HEAD),
    "many tiles touch one": ((41, 67), (7, 9), [[0.1, 0, 0], [0, 0.12, 0], [0, 0, 1]], ONE_HEAD),
    "few tiles touch many": ((34, 66), (40, 70), [[2.4, 0, 0], [0, 2.5, 0], [0, 0, 1]], ONE_HEAD),
    "groups touch nothing": ((130, 68), (20, 20), [[1, 0, 22.3], [0, 1, 0], [0, 0, 1]], ONE_HEAD),
    "more groups than lanes": (
        (2, 2117),
        (4, 60),
        [[0.028, 0, 0], [0, 0.9, 0], [0, 0, 1]],
        {**ONE_HEAD, "N": 1, "neighbors": [[2]]},
    ),
    "more slots than lanes": (
        (10, 9),
        (9, 8),
        TURN,
        {**ONE_HEAD, "V": 17, "neighbors": [[i % 4 - 1, i % 3] for i in range(17)]},
    ),
    "a view has no neighbor": ((33, 65), (12, 13), TURN, {**ONE_HEAD, "V": 2, "neighbors": [[-1, -1], [0, -1]]}),
}


def make(name, dtype):
    target, source, matrix, sizes = {**CASES, **GROUPS}[name]
    B, V, S, N, C, Cv, heads, window, noise, neighbors = ({
        "B": 1, "V": 2, "S": 3, "N": 2, "C": 8, "Cv": 16, "heads": 2, "window": 3, "noise": 1e-3,
        "neighbors": [[2, 0], [0, 2]],  # source 1 is nobody's
        **sizes,
    }).values()  # fmt: skip
    g = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    H = about_centers(matrix, target, source) + noise * randn(B, V, N, 3, 3)
    tensors = {
        "query": randn(B, V, *target, C).movedim(-1, 2).to(dtype),
        "key": randn(B, S, *source, C).movedim(-1, 2).to(dtype),
        "value": randn(B, S, *source, Cv).movedim(-1, 2).to(dtype),
        "homography": H.float(),
        "bias": randn(heads, N, window, window).float(),
    }
    return tensors, {"neighbors": torch.tensor(neighbors[:V]), "heads": heads, "window": window}


def gradients(tensors, options, backend, deterministic, dtype=None):
    device = DEVICE if backend == "cuda" else "cpu"
    leaves = {n: t.detach().to(device, dtype).requires_grad_() for n, t in tensors.items()}
    placed = {n: o.to(device) if isinstance(o, torch.Tensor) else o for n, o in options.items()}
    out, lse = function_of(OP)(**leaves, **placed, return_lse=True, deterministic=deterministic, backend=backend)
    g = torch.Generator().manual_seed(1)
    rounded = tensors["query"].dtype  # what every dtype can hold
    grads_out = [torch.randn(t.shape, generator=g, dtype=torch.float64).to(rounded).to(t) for t in (out, lse)]
    return [t.cpu() for t in torch.autograd.grad([out, lse], list(leaves.values()), grads_out)]


def within_budget(name, got, exact, plain):
    """As in test_ops.py, but however wrong plain torch is where coordinates are large."""
    error, own = ((t.double() - exact).abs().max() for t in (got, plain))
    budget = 2 * own + 8 * torch.finfo(got.dtype).eps * exact.abs().max()
    assert error <= budget, f"{name}: error {error:.2e} > budget {budget:.2e}"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *in_turn([(name,) for name in CASES], [(torch.float32,), (torch.bfloat16,)]),
        *itertools.product(GROUPS, (torch.float32, torch.bfloat16)),
    ],
    ids=str,
)
def test_gathered_gradients_are_right_and_always_the_same(name, dtype, monkeypatch):
    tensors, options = make(name, dtype)
    exact = gradients(tensors, options, "torch", True, torch.float64)
    plain = gradients(tensors, options, "torch", True)
    first = gradients(tensors, options, "cuda", True)
    for n, got, e, p in zip(NAMES, first, exact, plain):
        within_budget(f"grad_{n}", got, e, p)
    for order in ORDERS:
        monkeypatch.setenv("VSAD_EMULATOR_ORDER", order)
        for n, a, b in zip(NAMES, first, gradients(tensors, options, "cuda", True)):
            assert torch.equal(a, b), f"grad_{n} differs in order {order}"


@pytest.mark.parametrize(("dtype", "side"), [(torch.float32, 8), (torch.bfloat16, 4)], ids=str)
@pytest.mark.parametrize("name", ["a quarter turn", "groups touch nothing", "a view has no neighbor"])
def test_boxes_of_groups_hold_those_of_their_tiles(name, dtype, side, monkeypatch):
    tensors, options = make(name, dtype)
    launcher = importlib.import_module("vsad.ops.homography_align.cuda")
    empty_boxes, made = launcher._empty_boxes, []
    monkeypatch.setattr(launcher, "_empty_boxes", lambda *arguments: made.append(empty_boxes(*arguments)) or made[0])
    gradients(tensors, options, "cuda", True)
    (boxes,), slots = made, options["neighbors"].numel()
    H, W = (-(-size // side) for size in tensors["query"].shape[3:])  # counting tiles
    tiles, groups = boxes.cpu().split([slots * H * W, slots * -(-H // 8) * -(-W // 8)])
    tiles, groups = tiles.view(slots, H, W, 4), groups.view(slots, -(-H // 8), -(-W // 8), 4)
    touch = tiles[..., 2:].ge(0).all(-1)
    assert touch.any()
    assert tiles[~touch].eq(-1).all()
    for y, x in itertools.product(range(groups.shape[1]), range(groups.shape[2])):
        rows, columns = slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8)
        for slot in range(slots):
            own = tiles[slot, rows, columns][touch[slot, rows, columns]]
            if len(own):
                assert groups[slot, y, x].tolist() == [*own[:, :2].amin(0).tolist(), *own[:, 2:].amax(0).tolist()]
            else:
                assert groups[slot, y, x, 2:].eq(-1).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_scattered_gradients_are_right_in_any_order(name, order, monkeypatch):
    monkeypatch.setenv("VSAD_EMULATOR_ORDER", order)
    tensors, options = make(name, torch.float32)
    exact = gradients(tensors, options, "torch", False, torch.float64)
    plain = gradients(tensors, options, "torch", False)
    for n, got, e, p in zip(NAMES, gradients(tensors, options, "cuda", False), exact, plain):
        within_budget(f"grad_{n}", got, e, p)


def test_deterministic_algorithms_select_the_gather(monkeypatch):
    tensors, options = make("turned", torch.float32)
    launcher = importlib.import_module("vsad.ops.homography_align.cuda")
    asked = []

    def backward(call, *arguments):
        asked.append(call.deterministic)
        return real(call, *arguments)

    real = launcher.backward
    monkeypatch.setattr(launcher, "backward", backward)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for wanted in (False, True):
            torch.use_deterministic_algorithms(wanted)
            gradients(tensors, options, "cuda", None)
    finally:
        torch.use_deterministic_algorithms(before)
    assert asked == [False, True]


def test_neighbors_out_of_range_are_empty_slots():
    """A GPU's values are not looked at by the public function, so kernels must not follow them."""
    tensors, options = make("turned", torch.float32)
    launcher = importlib.import_module("vsad.ops.homography_align.cuda")
    arguments = [t.to(DEVICE) for t in tensors.values()]
    *arguments, bias = arguments
    wild = torch.tensor([[2, 3], [-7, 1 << 40]], device=DEVICE)
    empty = torch.tensor([[2, -1], [-1, -1]], device=DEVICE)
    rest = (bias, options["heads"], options["window"], 0.3)
    call = AlignCall(*arguments, wild, *rest, deterministic=False)
    got, expected = (launcher.forward(call._replace(neighbors=n)) for n in (wild, empty))
    assert all(torch.equal(a, b) for a, b in zip(got, expected))
    _, peak, log_sum = got
    assert peak[:, 1].eq(float("-inf")).all()
    assert log_sum[:, 1].eq(0).all()
    for deterministic in (False, True):
        grads = [
            launcher.backward(call._replace(neighbors=n, deterministic=deterministic), got, (got[0], None), (True,) * 5)
            for n in (wild, empty)
        ]
        for n, a, b in zip(NAMES, *grads):
            torch.testing.assert_close(a, b, msg=f"grad_{n}")
            assert a.abs().sum() > 0


def test_only_wanted_gradients_are_made():
    tensors, options = make("turned", torch.float32)
    launcher = importlib.import_module("vsad.ops.homography_align.cuda")
    query, key, value, homography, bias = (t.to(DEVICE) for t in tensors.values())
    neighbors, rest = options["neighbors"].to(DEVICE), (options["heads"], options["window"], 0.3)
    call = AlignCall(query, key, value, homography, neighbors, bias, *rest, deterministic=False)
    outputs = launcher.forward(call)
    for deterministic in (False, True):
        arguments = call._replace(deterministic=deterministic), outputs, (outputs[0], None)
        everything = launcher.backward(*arguments, (True,) * 5)
        for i in range(5):
            some = launcher.backward(*arguments, tuple(j == i for j in range(5)))
            torch.testing.assert_close(some[i], everything[i])
            assert all(t.numel() == 0 for j, t in enumerate(some) if j != i)


def test_larger_windows_are_refused_with_a_reason():
    tensor = torch.ones(1, device=DEVICE)
    call = AlignCall(tensor, tensor, tensor, tensor, tensor, None, 1, 9, 1.0, deterministic=False)
    assert "takes windows" in ROW.refusal(call)


def forward(tensors, options, backend, dtype=None):
    device = DEVICE if backend == "cuda" else "cpu"
    placed = {n: t.to(device, dtype) for n, t in tensors.items()}
    rest = {n: o.to(device) if isinstance(o, torch.Tensor) else o for n, o in options.items()}
    return [t.cpu() for t in function_of(OP)(**placed, **rest, return_lse=True, backend=backend)]


HEADS = {  # channels of a head, heads, window
    "16 x 4": (16, 4, 3),
    "16 x 3": (16, 3, 5),
    "32 x 2": (32, 2, 3),
    "40 x 3": (40, 3, 3),
    "40 x 2": (40, 2, 5),
    "64 x 1": (64, 1, 3),
    "64 x 2": (64, 2, 5),
    "80 x 2": (80, 2, 3),
    "80 x 1": (80, 1, 5),
    "160 x 2": (160, 2, 3),
    "160 x 1": (160, 1, 5),
}


@pytest.mark.parametrize(
    ("name", "heads", "dtype"),
    in_turn(
        itertools.product(["turned", "mirrored", "perspective", "many pixels to few", "few pixels among many"], HEADS),
        [(torch.float16,), (torch.bfloat16,)],
    ),
    ids=str,
)
def test_heads_for_tensor_cores(name, heads, dtype, monkeypatch):
    channels, count, window = HEADS[heads]
    monkeypatch.setitem(CASES[name][3], "V", 2)
    for key, size in {"C": channels * count, "Cv": channels * count, "heads": count, "window": window}.items():
        monkeypatch.setitem(CASES[name][3], key, size)
    tensors, options = make(name, dtype)
    exact, plain = forward(tensors, options, "torch", torch.float64), forward(tensors, options, "torch")
    for order in ("forward", "reverse", "1"):
        monkeypatch.setenv("VSAD_EMULATOR_ORDER", order)
        for n, got, e, p in zip(("out", "lse"), forward(tensors, options, "cuda"), exact, plain):
            nowhere = e == float("-inf")
            assert torch.equal(got == float("-inf"), nowhere)
            within_budget(n, *(torch.where(nowhere, 0, t) for t in (got, e, p)))


@pytest.mark.parametrize("what", ["key", "value"])
def test_heads_for_tensor_cores_keep_what_is_not_finite_to_its_place(what):
    tensors, options = make("turned", torch.bfloat16)
    for n in ("query", "key", "value"):
        tensors[n] = tensors[n].repeat_interleave(80 // tensors[n].shape[2], dim=2).contiguous()
    tensors[what][:, 2, 5, 3, 4] = float("inf")
    tensors[what][:, 0, 44, 6, 6] = float("nan")
    # weights that bfloat16 rounds to zero would make plain torch's infinities NaN
    expected, got = forward(tensors, options, "torch", torch.float32), forward(tensors, options, "cuda")
    for a, b in zip(expected, got):
        assert torch.equal(a.isfinite(), b.isfinite())
    assert not got[0].isfinite().all()
    assert got[0].isfinite().any()
