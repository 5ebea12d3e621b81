"""Resampling of an image through a homography."""

from .api import homography_warp

__all__ = ["homography_warp"]
