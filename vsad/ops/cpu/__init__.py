"""Launchers of the compiled CPU kernels: allocate, describe the tensors, call ``vsad._cpu``."""
