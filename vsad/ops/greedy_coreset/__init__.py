from .api import greedy_coreset

__all__ = ["greedy_coreset"]
