"""Inputs for the matrix: per operator a list of samples, each a function from a generator to the public arguments."""

import vsad.ops

from . import greedy_coreset, homography_align, homography_warp, prototype_distance

SAMPLES = {
    module.__name__.rsplit(".", 1)[1]: module.SAMPLES
    for module in (greedy_coreset, homography_align, homography_warp, prototype_distance)
}
ERRORS = {
    module.__name__.rsplit(".", 1)[1]: module.ERRORS
    for module in (greedy_coreset, homography_align, homography_warp, prototype_distance)
}


def function_of(operator):
    """The public function of an operator."""
    return getattr(vsad.ops, operator.name)
