from .api import Nearest, PackedPrototypes, pack_prototypes, prototype_distance

__all__ = ["Nearest", "PackedPrototypes", "pack_prototypes", "prototype_distance"]
