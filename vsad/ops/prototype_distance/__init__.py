"""Exact distances from features to their nearest prototypes."""

from .api import Nearest, prototype_distance
from .packed import PackedPrototypes, pack_prototypes

__all__ = ["Nearest", "PackedPrototypes", "pack_prototypes", "prototype_distance"]
