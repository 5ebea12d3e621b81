from vsad.kernels.greedy_coreset.select import forward

__all__ = ["forward"]
