"""The kinds of memory of normal appearance, and their options."""

from typing import TYPE_CHECKING, Any

from vsad.detection.memory.config import KINDS, MemoryConfig

if TYPE_CHECKING:
    from vsad.detection.memory.aligned import AlignedMemory
    from vsad.detection.memory.base import Changed, Memory
    from vsad.detection.memory.prototypes import PrototypeMemory
    from vsad.detection.memory.table import MEMORIES

__all__ = ["KINDS", "MEMORIES", "AlignedMemory", "Changed", "Memory", "MemoryConfig", "PrototypeMemory"]


def __getattr__(name: str) -> Any:
    """Import what needs torch, which takes seconds, when it is asked for and no sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vsad.detection.memory import base, table

    return getattr(base if name == "Changed" else table, name)
