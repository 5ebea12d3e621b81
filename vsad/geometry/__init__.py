"""Geometry: homographies as tensors, and the rig of fixed cameras that they relate.

Convention of the whole package: pixel coordinates are ``(x, y)`` and the center of pixel ``(i, j)`` is ``x=j, y=i``;
sizes are ``(height, width)``; ``H_source_from_target`` maps target pixels to source pixels, because an output pixel
asks where to look. (OpenCV and kornia warp with the opposite direction.) A point is *in front* when its
homogeneous ``Z > 0``. Coordinates are computed in float32, and in float64 for float64 input.
"""

from typing import TYPE_CHECKING

from vsad.lazy import names_in

if TYPE_CHECKING:
    from vsad.geometry.checks import Size
    from vsad.geometry.corners import corners_to_homography, homography_to_corners, image_corners
    from vsad.geometry.fitting import homography_from_points
    from vsad.geometry.homography import (
        orient_homography,
        overlap_fraction,
        scale_homography,
        transform_points,
        translation,
    )
    from vsad.geometry.rig import Rig
    from vsad.geometry.rig_pair import RigPair

__all__ = [
    "Rig",
    "RigPair",
    "Size",
    "corners_to_homography",
    "homography_from_points",
    "homography_to_corners",
    "image_corners",
    "orient_homography",
    "overlap_fraction",
    "scale_homography",
    "transform_points",
    "translation",
]

__getattr__ = names_in(__name__, __all__, "checks corners fitting homography rig rig_pair")
