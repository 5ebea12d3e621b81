import torch

from ._sample import Sample, homographies, randn

ALL = ("query", "key", "value", "homography", "bias")


def _make(
    B=1, V=2, S=2, N=1, C=8, Cv=8, target=(7, 9), source=(6, 11), heads=1, window=3, slots="full", hom=None, bias=True,
    spoil=None, **options,
):  # fmt: skip
    def make(g):
        neighbors = torch.randint(0, S, (V, N), generator=g) if N else torch.zeros((V, 0), dtype=torch.int64)
        if slots == "some empty":
            neighbors[::2, 0] = -1
        if slots == "all empty":
            neighbors[:] = -1
        tensors = {
            "query": randn(g, B, V, C, *target),
            "key": randn(g, B, S, C, *source),
            "value": randn(g, B, S, Cv, *source),
            "homography": hom(g, B, V, N, target, source) if hom else homographies(g, (B, V, N), target, source),
        }
        if bias:
            tensors["bias"] = randn(g, heads, N, window, window)
        if spoil:
            spoil(tensors)
        return tensors, {"neighbors": neighbors, "heads": heads, "window": window, **options}

    return make


def _behind(g, B, V, N, target, source):
    H = homographies(g, (B, V, N), target, source, perspective=1.5)
    if N > 1:
        H[:, :, 1] *= -1  # everything that was in front is behind
    return H


def _mirrored(g, B, V, N, target, source):
    return homographies(g, (B, V, N), target, source, mirrored=True)


def _shifts(g, B, V, N, target, source):
    """Identity and integer shifts: every coordinate on a pixel center, many on the border."""
    H = torch.eye(3, dtype=torch.float64).repeat(B, V, N, 1, 1)
    H[..., :2, 2] = torch.randint(-2, 3, (B, V, N, 2), generator=g).double()
    return H


def _broken(g, B, V, N, target, source):
    """NaN, infinite and zero homographies beside a sound one."""
    H = homographies(g, (B, V, N), target, source)
    H[:, :, 0, 0, 0] = float("nan")
    H[:, :, 1] = float("inf")
    H[:, :, 2] = 0
    return H


def _spoil_key(tensors):
    """NaN in a query and in a pixel of every source view: what looks there answers with NaN, and nothing else."""
    tensors["query"][:, :, :, 0, 0] = float("nan")
    tensors["key"][..., 2, 5] = float("nan")


def _spoil_value(tensors):
    tensors["value"][..., 2, 5] = float("nan")
    tensors["value"][..., 0, 0] = float("nan")  # where a point that is nowhere must not look


def _sample(name, differentiable=ALL, large=False, smooth=False, **options):
    make = _make(**options)
    if not options.get("bias", True):
        differentiable = tuple(d for d in differentiable if d != "bias")
    return Sample(name, make, differentiable, images=("query", "key", "value"), large=large, smooth=smooth)


SAMPLES = [
    _sample("small", B=2, V=1, N=2, C=6, Cv=10, heads=2, target=(3, 5), source=(4, 7), smooth=True),
    _sample("odd", B=2, V=3, S=3, N=2, C=12, Cv=20, heads=4, large=True),
    _sample("window1", N=2, window=1),
    _sample("window5", N=2, window=5, heads=2, source=(9, 8)),
    _sample("window7", window=7, C=5, Cv=3, source=(13, 12)),
    _sample("heads8", C=40, Cv=24, heads=8, N=2, large=True),
    _sample("small heads8", V=1, C=40, Cv=24, heads=8, target=(3, 4)),
    _sample("wide", C=67, Cv=33, target=(5, 6)),
    _sample("one pixel", target=(1, 1), source=(1, 1), hom=_shifts),
    _sample("one row", target=(1, 6), source=(1, 9), hom=_shifts),
    _sample("mirrored", N=2, hom=_mirrored, target=(12, 10)),
    _sample("horizon", B=2, V=3, S=3, N=2, hom=_behind, target=(14, 15), source=(9, 12), large=True),
    _sample("small horizon", N=2, hom=_behind, target=(6, 7), source=(9, 12)),
    _sample("shifts", V=3, S=3, N=3, hom=_shifts, source=(7, 9)),
    _sample("some empty", V=3, S=4, N=2, slots="some empty"),
    _sample("all empty", slots="all empty"),
    _sample("no slots", N=0, bias=False),
    _sample("no batch", B=0),
    _sample("no views", V=0, bias=False),
    _sample("no bias", N=2, bias=False, scale=0.3),
    _sample("broken homography", N=4, hom=_broken),
    _sample("broken key", (), N=2, spoil=_spoil_key),
    _sample("broken value", (), V=3, S=3, N=2, slots="some empty", hom=_behind, target=(11, 10), spoil=_spoil_value),
]


def _args(**changes):
    tensors, options = _make(B=2, V=3, S=3, N=2, heads=2)(torch.Generator().manual_seed(0))
    return {**{k: t.float() for k, t in tensors.items()}, **options, **changes}


ERRORS = [
    (lambda: _args(query=torch.ones(3)), ValueError, r"query must be \[B V C H W\], got \[3\]"),
    (lambda: _args(key=torch.ones(2, 3, 9, 6, 11)), ValueError, r"key must be \[B S C Hs Ws\] with C=8"),
    (lambda: _args(value=torch.ones(2, 3, 8, 6, 10)), ValueError, r"value must be \[B S Cv Hs Ws\] with Ws=11"),
    (
        lambda: _args(key=torch.ones(2, 3, 8, 6, 11).double()),
        ValueError,
        "key must have the dtype of query, torch.float32, got torch.float64; call .to",
    ),
    (lambda: _args(query=torch.ones(2, 3, 8, 7, 9).long()), ValueError, "query must be floating point"),
    (lambda: _args(query=[1]), TypeError, "query must be a tensor, got list"),
    (
        lambda: _args(homography=torch.ones(2, 3, 2, 3, 4)),
        ValueError,
        r"\[3, 2, 3, 3\] .*, got \[2, 3, 2, 3, 4\]; stack",
    ),
    (
        lambda: _args(homography=torch.ones(5, 3, 2, 3, 3)),
        ValueError,
        r"batch 1 or B=2 in front, got \[5, 3, 2, 3, 3\]; give one set",
    ),
    (lambda: _args(homography=torch.ones(3, 4, 3, 3)), ValueError, "each of the N=2 neighbor slots of each of the V=3"),
    (lambda: _args(homography=torch.ones(3, 4, 3, 3)), ValueError, "give neighbors as many columns"),
    (lambda: _args(homography=torch.ones(3, 3)), ValueError, r"got \[3, 3\]; stack one matrix per slot, or expand one"),
    (
        lambda: _args(homography=torch.ones(4, 2, 3, 3)),
        ValueError,
        r"got \[4, 2, 3, 3\]; give homographies for every view",
    ),
    (lambda: _args(homography=[1]), TypeError, "homography must be a tensor, got list"),
    (lambda: _args(homography=torch.ones(3, 2, 3, 3).long()), ValueError, "homography must be floating point"),
    (
        lambda: _args(neighbors=torch.tensor([[0, 1]] * 2)),
        ValueError,
        r"\[V N\] with V=3, got \[2, 2\]",
    ),
    (lambda: _args(neighbors=torch.tensor([[0, 3]] * 3)), ValueError, r"neighbors must lie in \[-1, S=3\), got 3"),
    (lambda: _args(neighbors=torch.tensor([[0, -2]] * 3)), ValueError, "got -2; -1 marks an empty slot"),
    (lambda: _args(neighbors=torch.ones(3, 2).int()), ValueError, "neighbors must be int64"),
    (lambda: _args(neighbors=None, query=torch.ones(2, 4, 8, 7, 9)), ValueError, "neighbors must be given"),
    (lambda: _args(window=4), ValueError, "window must be odd and lie in .1, 255., got 4; use 5"),
    (lambda: _args(window=-1), ValueError, "window must be odd and lie in .1, 255., got -1; use 1"),
    (lambda: _args(window=3.0), TypeError, r"window must be an integer, got 3\.0; pass a Python int"),
    (lambda: _args(window=2**31 + 1), ValueError, "window must be odd and lie in .1, 255., got 2147483649; use 255"),
    (lambda: _args(heads=2.0), TypeError, r"heads must be an integer, got 2\.0"),
    (lambda: _args(heads=True), TypeError, "heads must be an integer, got True"),
    (lambda: _args(heads=2**40), ValueError, "heads must divide C=8"),
    (lambda: _args(scale="x"), TypeError, "scale must be a number, got 'x'"),
    (
        lambda: _args(scale=torch.tensor(0.5, requires_grad=True)),
        TypeError,
        r"scale must be a number, got a tensor; multiply query by it and pass scale=1\.0",
    ),
    (lambda: _args(return_lse=1), TypeError, "return_lse must be True or False, got 1"),
    (lambda: _args(deterministic="no"), TypeError, "deterministic must be True or False, got 'no'"),
    (lambda: _args(bias=1.0), TypeError, "bias must be a tensor, got float"),
    (lambda: _args(bias=torch.ones(2, 3, 3).long()), ValueError, "bias must be floating point"),
    (lambda: _args(query=None), TypeError, "query must be a tensor, got NoneType"),
    (lambda: _args(query=torch.tensor(1.0), neighbors=None), ValueError, "neighbors must be given"),
    (lambda: _args(query=torch.ones(2, 3, 8, 7, 9).to_sparse()), TypeError, r"strided tensor, .*; call \.to_dense"),
    (lambda: _args(query=torch.nested.nested_tensor([torch.ones(3, 8, 7, 9)])), TypeError, "got a nested tensor; call"),
    (lambda: _args(scale=10**400), ValueError, "scale must be a number that fits a float"),
    (lambda: _args(heads=3), ValueError, "heads must divide C=8 and Cv=8, got 3"),
    (lambda: _args(bias=torch.ones(2, 3, 3, 3)), ValueError, r"bias must be \[heads R R\] or \[heads N R R\]"),
    (lambda: _args(key=torch.ones(2, 3, 8, 0, 11), value=torch.ones(2, 3, 8, 0, 11)), ValueError, "at least one pixel"),
    (lambda: _args(query=torch.ones(2, 3, 8, 7, 9, device="meta")), ValueError, "must be on the device of query"),
    (lambda: _args(backend="abacus"), ValueError, "backend must be one of"),
]
