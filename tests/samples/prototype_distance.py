import torch

import vsad.ops

from ._sample import Sample, randn


def _make(M, P, C, k=1, metric="euclidean", offset=0.0):
    def make(g):
        return {"features": randn(g, M, C) + offset, "prototypes": randn(g, P, C) + offset}, {"k": k, "metric": metric}

    return make


def _duplicates(g):
    prototypes = randn(g, 40, 16)[torch.randint(0, 12, (40,), generator=g)]
    features = prototypes[:20] + 0.1 * randn(g, 20, 16)
    return {"features": features, "prototypes": prototypes}, {"k": 3, "metric": "euclidean"}


def _huge_norm(g):
    prototypes = randn(g, 70, 24)
    prototypes[7] *= 1000
    return {"features": randn(g, 33, 24), "prototypes": prototypes}, {"k": 2, "metric": "euclidean"}


def _zeros(g):
    """Rows without a direction: a distance of 1 to everything, ranked as such."""
    features, prototypes = randn(g, 20, 24), randn(g, 9, 24)
    features[3], prototypes[1::3] = 0, 0
    return {"features": features, "prototypes": prototypes}, {"k": 6, "metric": "cosine"}


def _broken(metric):
    def make(g):
        features, prototypes = randn(g, 30, 24), randn(g, 50, 24)
        features[4, 2], features[5] = float("nan"), float("inf")
        prototypes[7, 0], prototypes[11, 5] = float("nan"), float("-inf")
        return {"features": features, "prototypes": prototypes}, {"k": 3, "metric": metric}

    return make


BOTH = ("features", "prototypes")
SAMPLES = [
    Sample("odd", _make(63, 97, 31), BOTH),
    Sample("k9", _make(40, 130, 64, k=9, metric="sqeuclidean"), BOTH),
    Sample("k is P", _make(5, 17, 8, k=17), BOTH, smooth=True),
    Sample("cosine", _make(33, 50, 20, k=4, metric="cosine"), BOTH, smooth=True),
    Sample("one", _make(1, 1, 1), BOTH),
    Sample("empty", _make(0, 4, 8), BOTH),
    Sample("wide", _make(20, 300, 515, k=2), BOTH),
    Sample("offset", _make(50, 90, 32, offset=100.0), BOTH),
    Sample("duplicates", _duplicates, BOTH),
    Sample("huge norm", _huge_norm, BOTH),
    Sample("cosine zeros", _zeros),
    Sample("broken", _broken("euclidean")),
    Sample("broken cosine", _broken("cosine")),
]


def _args(**changes):
    return {"features": torch.ones(3, 5), "prototypes": torch.ones(2, 5), **changes}


ERRORS = [
    (lambda: _args(features=torch.tensor(1.0)), ValueError, r"features must be \[... C\], got a scalar"),
    (lambda: _args(prototypes=torch.ones(2, 4)), ValueError, r"prototypes must be \[P C\] with C=5, got \[2, 4\]"),
    (lambda: _args(prototypes=torch.ones(0, 5)), ValueError, "prototypes must hold at least one row"),
    (lambda: _args(k=3), ValueError, r"k must lie in \[1, P=2\], got 3"),
    (lambda: _args(k=0), ValueError, r"k must lie in \[1, P=2\], got 0"),
    (lambda: _args(k=2.0), TypeError, r"k must be an integer, got 2\.0"),
    (lambda: _args(k=None), TypeError, "k must be an integer, got None"),
    (lambda: _args(k=torch.tensor(1)), TypeError, r"k must be an integer, got tensor\(1\)"),
    (lambda: _args(features=None), TypeError, "features must be a tensor, got NoneType"),
    (lambda: _args(features=vsad.ops.pack_prototypes(torch.ones(2, 5))), TypeError, "got PackedPrototypes"),
    (lambda: _args(prototypes=torch.ones(2, 5).to_sparse()), TypeError, "prototypes must be a strided tensor"),
    (lambda: _args(metric=["cosine"]), ValueError, "metric must be one of"),
    (lambda: _args(metric="manhattan"), ValueError, "metric must be one of .*got 'manhattan'"),
    (lambda: _args(features=torch.ones(3, 5).half()), ValueError, "prototypes must have the dtype of features"),
    (lambda: _args(backend="abacus"), ValueError, "backend must be one of"),
]
