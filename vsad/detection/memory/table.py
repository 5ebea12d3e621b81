"""The kinds of memory of normal appearance; another one is another class, another name and another row here."""

from __future__ import annotations

from vsad.detection.memory.aligned import AlignedMemory
from vsad.detection.memory.base import Memory
from vsad.detection.memory.config import KINDS
from vsad.detection.memory.prototypes import PrototypeMemory

MEMORIES: dict[str, type[Memory]] = dict(zip(KINDS, (AlignedMemory, PrototypeMemory), strict=True))
