"""Operators: drop them into a model of your own.

    homography_warp      resample an image through a homography
    homography_align     attend to the windows around a pixel's projections into other views
    prototype_distance   exact nearest prototypes; pack_prototypes makes a bank ready once
    greedy_coreset       k-center greedy selection

``using`` selects a backend for a block; ``python -m vsad.info`` says which ones work here and why others do not.
"""

from .common.registry import using
from .greedy_coreset import greedy_coreset
from .homography_align import homography_align
from .homography_warp import homography_warp
from .prototype_distance import Nearest, PackedPrototypes, pack_prototypes, prototype_distance

__all__ = [
    "Nearest",
    "PackedPrototypes",
    "greedy_coreset",
    "homography_align",
    "homography_warp",
    "pack_prototypes",
    "prototype_distance",
    "using",
]
