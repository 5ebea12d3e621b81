"""The kinds of memory of normal appearance, and their options."""

from typing import TYPE_CHECKING

from vsad.detection.memory.config import KINDS, MemoryConfig
from vsad.lazy import names_in

if TYPE_CHECKING:
    from vsad.detection.memory.aligned import AlignedMemory
    from vsad.detection.memory.base import Changed, Memory
    from vsad.detection.memory.prototypes import PrototypeMemory
    from vsad.detection.memory.table import MEMORIES

__all__ = ["KINDS", "MEMORIES", "AlignedMemory", "Changed", "Memory", "MemoryConfig", "PrototypeMemory"]

__getattr__ = names_in(__name__, __all__, "base table")
