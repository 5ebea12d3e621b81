from vsad.kernels.homography_align.forward import backward, forward

__all__ = ["backward", "forward"]
