"""Choosing few features that cover many: k-center greedy."""

from .api import greedy_coreset

__all__ = ["greedy_coreset"]
