from vsad.kernels.prototype_distance.search import backward, forward

__all__ = ["backward", "forward"]
