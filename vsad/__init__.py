"""vsad: homography-guided multi-view anomaly detection, as fused kernels and a lean model around them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsad import ops

__all__ = ["ops"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``vsad.ops`` after ``import vsad``. It imports torch, and so it waits until somebody asks for it."""
    if name == "ops":
        import vsad.ops

        return vsad.ops
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
