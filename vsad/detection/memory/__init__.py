"""The kinds of memory of normal appearance; another one is another class and another row here."""

from vsad.detection.memory.aligned import AlignedMemory
from vsad.detection.memory.base import Changed, Memory, MemoryConfig
from vsad.detection.memory.prototypes import PrototypeMemory

MEMORIES: dict[str, type[Memory]] = {"aligned": AlignedMemory, "prototypes": PrototypeMemory}

__all__ = ["MEMORIES", "AlignedMemory", "Changed", "Memory", "MemoryConfig", "PrototypeMemory"]
