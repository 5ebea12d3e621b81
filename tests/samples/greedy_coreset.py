import torch

from ._sample import Sample, randn


def _make(M, C, size, **options):
    return lambda g: ({"features": randn(g, M, C)}, {"size": size, **options})


def _duplicates(g):
    return {"features": randn(g, 5, 3).repeat(4, 1)}, {"size": 12, "start": 3}


SAMPLES = [
    Sample("odd", _make(57, 13, 20)),
    Sample("all", _make(9, 4, 9, start=2)),
    Sample("one", _make(1, 1, 1)),
    Sample("duplicates", _duplicates),
]


def _args(**changes):
    return {"features": torch.ones(6, 5), "size": 2, **changes}


ERRORS = [
    (lambda: _args(features=torch.ones(5)), ValueError, r"features must be \[M C\], got \[5\]"),
    (lambda: _args(features=torch.ones(6, 5).int()), ValueError, "features must be a floating point"),
    (lambda: _args(size=7), ValueError, r"size must lie in \[1, M=6\], got 7"),
    (lambda: _args(size=0), ValueError, r"size must lie in \[1, M=6\], got 0"),
    (lambda: _args(start=6), ValueError, r"start must lie in \[0, M=6\), got 6"),
    (lambda: _args(backend="abacus"), ValueError, "backend must be one of"),
]
