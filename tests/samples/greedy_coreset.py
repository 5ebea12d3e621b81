import torch

from ._sample import Sample, randn


def _make(M, C, size, **options):
    return lambda g: ({"features": randn(g, M, C)}, {"size": size, **options})


def _duplicates(g):
    return {"features": randn(g, 5, 3).repeat(4, 1)}, {"size": 12, "start": 3}


def _lattice(g):
    """Steps that binary numbers do not hold: many distances are equal but for how they are rounded."""
    steps = torch.arange(6, dtype=torch.float64) / 10
    points = torch.cartesian_prod(steps, steps, steps)
    return {"features": points[torch.randperm(len(points), generator=g)]}, {"size": 60}


def _far_from_zero(g):
    return {"features": 100 + randn(g, 300, 24)}, {"size": 40}


def _not_finite(g):
    features = randn(g, 70, 9)
    features[3, 2], features[20], features[41, 0] = float("nan"), float("inf"), float("-inf")
    features[50:] = features[:20]
    return {"features": features}, {"size": 60, "start": 41}


def _clusters(clusters, points, size):
    """More picks than clusters, and enough of them to divide many points into regions."""

    def make(g):
        centers = 10 * randn(g, clusters, 19)
        return {"features": (centers[:, None] + randn(g, clusters, points, 19)).flatten(0, 1)}, {"size": size}

    return make


def points(M=3000, C=37, kind="normal"):
    """Data of a kind, for the tests of single backends."""
    g = torch.Generator().manual_seed(0)
    if kind == "normal":
        return torch.randn(M, C, generator=g)
    if kind == "clusters":
        return 5 * torch.randn(40, C, generator=g)[torch.arange(M) % 40] + torch.randn(M, C, generator=g)
    if kind == "heavy tails":
        return torch.randn(M, C, generator=g) * torch.randn(M, 1, generator=g).exp() ** 2
    if kind == "equidistant":
        return torch.eye(M, C)
    return torch.randn(M // 7, C, generator=g).repeat(7, 1)[torch.randperm(M // 7 * 7, generator=g)]  # duplicates


KINDS = ("normal", "clusters", "heavy tails", "equidistant", "duplicates")

SAMPLES = [
    Sample("odd", _make(57, 13, 20)),
    Sample("all", _make(9, 4, 9, start=2)),
    Sample("one", _make(1, 1, 1)),
    Sample("duplicates", _duplicates),
    Sample("lattice", _lattice),
    Sample("far from zero", _far_from_zero),
    Sample("not finite", _not_finite),
    Sample("clusters", _clusters(30, 40, 700), large=True),
    Sample("few clusters", _clusters(6, 12, 30)),
    Sample("no channels", _make(5, 0, 3)),
]


def _args(**changes):
    return {"features": torch.ones(6, 5), "size": 2, **changes}


ERRORS = [
    (lambda: _args(features=torch.ones(5)), ValueError, r"features must be \[M C\], got \[5\]"),
    (lambda: _args(features=torch.ones(6, 5).int()), ValueError, "features must be floating point"),
    (lambda: _args(size=7), ValueError, r"size must lie in \[1, M=6\], got 7"),
    (lambda: _args(size=0), ValueError, r"size must lie in \[1, M=6\], got 0"),
    (lambda: _args(size=2.0), TypeError, r"size must be an integer, got 2\.0"),
    (lambda: _args(start="0"), TypeError, "start must be an integer, got '0'"),
    (lambda: _args(seed=None), TypeError, "seed must be an integer, got None"),
    (lambda: _args(seed=2**64), ValueError, "seed must be a 64-bit integer"),
    (lambda: _args(features=torch.ones(0, 5), size=1), ValueError, "features must hold at least one row"),
    (lambda: _args(start=6), ValueError, r"start must lie in \[0, M=6\), got 6"),
    (lambda: _args(backend="abacus"), ValueError, "backend must be one of"),
]
