"""Attention of every pixel to the windows around its projections into neighboring views."""

from .api import homography_align

__all__ = ["homography_align"]
