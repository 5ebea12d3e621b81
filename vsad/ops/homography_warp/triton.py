from vsad.kernels.homography_warp.warp import backward, forward

__all__ = ["backward", "forward"]
