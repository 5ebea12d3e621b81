import torch

from vsad.ops.homography_warp.call import MODES, PADDINGS

from ._sample import Sample, homographies, randn


def _make(B=2, C=3, source=(9, 7), size=(6, 8), perspective=0.1, mirrored=False, spoil=None, **options):
    def make(g):
        H = homographies(g, (B,), size, source, perspective, mirrored)
        tensors = {"input": randn(g, B, C, *source), "homography": H}
        if spoil:
            spoil(tensors)
        return tensors, {"size": size, "return_mask": True, **options}

    return make


def _spoil_homography(tensors):
    """NaN, infinite, zero and huge entries: every point is nowhere, or so far away that nothing is there."""
    H = tensors["homography"]
    H[0, 0, 0], H[1], H[2], H[3, 0, 2] = float("nan"), float("inf"), 0, 1e30


def _spoil_input(tensors):
    tensors["input"][:, 0, 2, 3] = float("nan")
    tensors["input"][:, 1, 0, 0] = float("inf")


def _sample(name, both=("input", "homography"), smooth=False, **options):
    return Sample(name, _make(**options), both, images=("input",), smooth=smooth)


def _every_way():
    """Every mode and padding, on images whose inside fills whole vectors; the channel counts take turns."""
    ways = [(mode, padding) for mode in MODES for padding in PADDINGS]
    for i, (mode, padding) in enumerate(ways):
        both = ("input",) if mode == "nearest" else ("input", "homography")
        # float32's coordinates, and cubic slopes in them, are exact enough only in small images
        shape = {"source": (5, 7), "size": (4, 17)} if mode == "bicubic" else {"source": (9, 24), "size": (7, 21)}
        for channels in ((3, 17), (1, 4))[i % 2]:
            yield _sample(f"{mode} {padding} {channels}", both, C=channels, mode=mode, padding=padding, **shape)


SAMPLES = [
    _sample("bilinear", smooth=True),
    _sample("nearest", both=("input",), mode="nearest"),  # a staircase: no gradient for the homography
    _sample("bicubic", mode="bicubic", smooth=True),
    _sample("border", padding="border", smooth=True),
    _sample("reflection", padding="reflection", smooth=True),
    _sample("mirrored", mirrored=True, source=(11, 13), size=(17, 5), smooth=True),
    _sample("horizon", perspective=1.5, size=(14, 15)),
    _sample("one pixel", source=(1, 1), size=(1, 1)),
    _sample("no batch", B=0),
    _sample("broken homography", B=4, spoil=_spoil_homography),
    _sample("broken input", (), spoil=_spoil_input, perspective=1.5),
    _sample("broken input bicubic", (), spoil=_spoil_input, mode="bicubic", source=(9, 24), size=(7, 21)),
    *_every_way(),
]


def _args(**changes):
    tensors, options = _make()(torch.Generator().manual_seed(0))
    return {**{k: t.float() for k, t in tensors.items()}, **options, **changes}


ERRORS = [
    (lambda: _args(input=torch.ones(3, 4)), ValueError, r"input must be \[B C Hs Ws\], got \[3, 4\]"),
    (lambda: _args(input=torch.ones(2, 3, 4, 4).int()), ValueError, "input must be floating point or uint8"),
    (lambda: _args(input=torch.ones(2, 3, 0, 4)), ValueError, "input must have at least one pixel"),
    (lambda: _args(size=(0, 5)), ValueError, r"size must be \(height, width\), both at least 1, got \(0, 5\)"),
    (lambda: _args(size=(5, -1)), ValueError, r"both at least 1, got \(5, -1\)"),
    (lambda: _args(size=(5,)), ValueError, r"size must be \(height, width\), both at least 1, got \(5,\)"),
    (lambda: _args(size=(3, 4, 5)), ValueError, r"both at least 1, got \(3, 4, 5\)"),
    (lambda: _args(size=(3.7, 4)), TypeError, r"size\[0\] must be an integer, got 3\.7"),
    (lambda: _args(size=(None, 4)), TypeError, r"size\[0\] must be an integer, got None"),
    (lambda: _args(size=("4", "5")), TypeError, r"size\[0\] must be an integer, got '4'"),
    (lambda: _args(size=5), TypeError, r"size must be \(height, width\), two integers, got 5; use \(5, 5\)"),
    (lambda: _args(size="ab"), TypeError, r"size must be \(height, width\), two integers, got 'ab'"),
    (lambda: _args(size={3: 1, 4: 2}), TypeError, r"size must be \(height, width\), two integers"),
    (lambda: _args(return_mask=None), TypeError, "return_mask must be True or False, got None"),
    (lambda: _args(deterministic=0), TypeError, "deterministic must be True or False, got 0"),
    (lambda: _args(mode=torch.ones(2)), ValueError, "mode must be one of"),
    (lambda: _args(input=torch.ones(2, 3, 4, 4).to_sparse()), TypeError, "input must be a strided tensor"),
    (lambda: _args(homography=torch.ones(2, 2)), ValueError, r"homography must be \[3, 3\], or .*, got \[2, 2\]"),
    (lambda: _args(homography=[[1]]), TypeError, "homography must be a tensor, got list"),
    (lambda: _args(homography=torch.eye(3).long()), ValueError, "homography must be floating point"),
    (
        lambda: _args(homography=torch.ones(3, 3, 3)),
        ValueError,
        r"batch 1 or B=2 in front, got \[3, 3, 3\]; give one matrix",
    ),
    (lambda: _args(mode="cubic"), ValueError, "mode must be one of .*got 'cubic'"),
    (lambda: _args(padding="wrap"), ValueError, "padding must be one of .*got 'wrap'"),
    (lambda: _args(backend="abacus"), ValueError, "backend must be one of"),
]
