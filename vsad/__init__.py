"""vsad: homography-guided multi-view anomaly detection, as fused kernels and a lean model around them."""

__version__ = "0.1.0"
