import torch

from ._sample import Sample, homographies, randn


def _make(B=2, C=3, source=(9, 7), size=(6, 8), **options):
    def make(g):
        perspective = options.pop("perspective", 0.1) if "perspective" in options else 0.1
        H = homographies(g, (B,), size, source, perspective)
        return {"input": randn(g, B, C, *source), "homography": H}, {"size": size, "return_mask": True, **options}

    return make


def _sample(name, **options):
    # nearest has no gradient for the homography
    both = ("input",) if options.get("mode") == "nearest" else ("input", "homography")
    return Sample(name, _make(**options), both, images=("input",))


SAMPLES = [
    _sample("bilinear"),
    _sample("nearest", mode="nearest"),
    _sample("bicubic", mode="bicubic"),
    _sample("border", padding="border"),
    _sample("reflection", padding="reflection"),
    _sample("one pixel", source=(1, 1), size=(1, 1)),
    _sample("no batch", B=0),
    _sample("no output", size=(0, 4)),
]


def _args(**changes):
    tensors, options = _make()(torch.Generator().manual_seed(0))
    return {**{k: t.float() for k, t in tensors.items()}, **options, **changes}


ERRORS = [
    (lambda: _args(input=torch.ones(3, 4)), ValueError, r"input must be \[B C H W\], got \[3, 4\]"),
    (lambda: _args(input=torch.ones(2, 3, 4, 4).int()), ValueError, "input must be a floating point"),
    (lambda: _args(input=torch.ones(2, 3, 0, 4)), ValueError, "input must have pixels"),
    (lambda: _args(homography=torch.ones(2, 2)), ValueError, r"homography must be \[Bh 3 3\]"),
    (lambda: _args(homography=torch.ones(3, 3, 3)), ValueError, "homography must have batch 1 or B=2, got 3"),
    (lambda: _args(mode="cubic"), ValueError, "mode must be one of .*got 'cubic'"),
    (lambda: _args(padding="wrap"), ValueError, "padding must be one of .*got 'wrap'"),
    (lambda: _args(backend="abacus"), ValueError, "backend must be one of"),
]
