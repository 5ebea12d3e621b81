from .api import homography_align

__all__ = ["homography_align"]
