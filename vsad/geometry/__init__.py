"""Geometry: homographies as tensors, and the rig of fixed cameras that they relate.

Convention of the whole package: pixel coordinates are ``(x, y)`` and the center of pixel ``(i, j)`` is ``x=j, y=i``;
sizes are ``(height, width)``; ``H_source_from_target`` maps target pixels to source pixels, because an output pixel
asks where to look. (OpenCV and kornia warp with the opposite direction.) A point is *in front* when its
homogeneous ``Z > 0``. Coordinates are computed in float32, and in float64 for float64 input.
"""

from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import what needs torch, which takes seconds, when it is asked for and no sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vsad.geometry import checks, corners, fitting, homography, rig, rig_pair

    modules = (checks, corners, fitting, homography, rig, rig_pair)
    return next(found for module in modules if (found := getattr(module, name, None)))
